"""`imago keys`: who may ask the gateway for what."""

import json
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from services.cli.commands.common import GatewayOption, JsonOption, emit, gateway_of, table
from services.cli.settings import CliSettings
from shared import settings as shared_settings
from shared.artefacts.keys import KeyStore
from shared.contracts.keys import KeyList, KeyRequest, KeyView, Scope

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)

LocalOption = Annotated[
    bool,
    typer.Option(
        "--local", help="Write the store of IMAGO_STATE_DIR and ask no gateway: for the first key of all."
    ),
]


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Option(help="What the key is called, such as the place where it is used.")],
    owner: Annotated[str, typer.Option(help="For whom it acts: what is made with it is theirs.")],
    scope: Annotated[list[Scope], typer.Option(help="What it allows; once for each of several.")],
    days: Annotated[float | None, typer.Option(help="It expires after so many; left out, never.")] = None,
    per_second: Annotated[float | None, typer.Option(help="Requests a second, each image as one.")] = None,
    burst: Annotated[int | None, typer.Option(help="Requests at once after a pause.")] = None,
    per_day: Annotated[int | None, typer.Option(help="Requests on one day in UTC.")] = None,
    teacher_rows: Annotated[int | None, typer.Option(help="Images that teachers answer, in all.")] = None,
    local: LocalOption = False,
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it: this is the only time that it is shown."""
    limits = {
        "per_second": per_second,
        "burst": burst,
        "per_day": per_day,
        "teacher_rows": teacher_rows,
    }
    wanted = {"name": name, "owner": owner, "scopes": scope, "expires_in_days": days, "limits": limits}
    if local:
        made = _store().make(_checked(wanted))
    else:
        with gateway_of(context, gateway) as client:
            made = client.make_key(json.dumps(wanted).encode())
    emit(made, as_json, made.key)


@app.command("list")
def list_keys(
    context: typer.Context,
    local: LocalOption = False,
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """List all keys without their secrets."""
    if local:
        found = KeyList(keys=_store().list())
    else:
        with gateway_of(context, gateway) as client:
            found = client.keys()
    rows = [
        (
            one.id,
            one.name,
            one.owner,
            ", ".join(one.scopes),
            f"{one.created_at:%Y-%m-%d}",
            _until(one),
            _limits(one),
        )
        for one in found.keys
    ]
    columns = ("id", "name", "owner", "scopes", "made", "until (UTC)", "limits")
    emit(found, as_json, table(columns, rows))


@app.command()
def revoke(
    context: typer.Context,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `imago keys list` shows it.")],
    local: LocalOption = False,
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a key allow nothing any more, everywhere within half a second."""
    if local:
        revoked = _store().revoke(key_id)
    else:
        with gateway_of(context, gateway) as client:
            revoked = client.revoke_key(key_id)
    emit(revoked, as_json, f"{revoked.id} ({revoked.name}, of {revoked.owner}) is revoked")


def _store() -> KeyStore:
    return KeyStore(shared_settings.load(CliSettings).absolute_state_dir / "store")


def _checked(wanted: dict[str, Any]) -> KeyRequest:
    try:
        return KeyRequest.model_validate(wanted)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise typer.BadParameter(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _until(key: KeyView) -> str:
    if key.revoked_at is not None:
        return f"revoked {key.revoked_at:%Y-%m-%d %H:%M:%S}"
    return f"{key.expires_at:%Y-%m-%d %H:%M:%S}" if key.expires_at is not None else ""


def _limits(key: KeyView) -> str:
    said = key.limits.model_dump(exclude_none=True)
    return ", ".join(f"{name} {value:g}" for name, value in said.items())
