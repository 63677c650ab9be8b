"""`imago kept`: what gateways kept with consent, and its removal; `imago redistil`: learn from it."""

import json
from typing import Annotated, Literal

import typer

from services.cli.commands.common import GatewayOption, JsonOption, emit, gateway_of, table
from services.cli.commands.jobs import numbers, watch_to_end
from shared.contracts.kept import KeptDeleted

app = typer.Typer(help="Look at kept images, and remove them.", no_args_is_help=True)

Collection = Annotated[str, typer.Argument(metavar="COLLECTION", help="The name they are kept under.")]


@app.command("list")
def list_kept(context: typer.Context, gateway: GatewayOption = None, as_json: JsonOption = False) -> None:
    """List collections of kept images."""
    with gateway_of(context, gateway) as client:
        kept = client.kept()
    rows = [
        (
            one.name,
            f"{one.images:,}",
            f"{one.escalated:,}",
            f"{one.disagreed:,}",
            f"{one.since:%Y-%m-%d %H:%M:%S}",
            f"{one.until:%Y-%m-%d %H:%M:%S}",
        )
        for one in kept.collections
    ]
    columns = ("collection", "images", "escalated", "disagreed", "since (UTC)", "until (UTC)")
    emit(kept, as_json, table(columns, rows))


@app.command()
def show(
    context: typer.Context,
    collection: Collection,
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how many images a collection has, and of which students."""
    with gateway_of(context, gateway) as client:
        found = client.kept_collection(collection)
    rows = [
        ("collection", found.name),
        ("images", f"{found.images:,}, {found.size_bytes:,} bytes"),
        ("escalated", f"{found.escalated:,}"),
        ("disagreed", f"{found.disagreed:,}"),
        ("since", found.since.isoformat(timespec="seconds")),
        ("until", found.until.isoformat(timespec="seconds")),
        *((f"by {one.student}", f"{one.images:,}, on {one.dataset!r}") for one in found.students),
    ]
    emit(found, as_json, table(("", ""), rows))


@app.command()
def delete(
    context: typer.Context,
    collection: Collection,
    datasets: Annotated[
        bool, typer.Option("--datasets", help="Remove the datasets as well that were frozen from them.")
    ] = False,
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove every image of a collection, as when consent is withdrawn."""
    with gateway_of(context, gateway) as client:
        deleted = client.delete_kept(collection, datasets=datasets)
    emit(deleted, as_json, *_words(deleted))


def redistil(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the new student is called.")],
    collection: Annotated[str, typer.Option(help="The collection of kept images.")],
    dataset: Annotated[str, typer.Option(help="What the frozen dataset is called.")],
    student: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="The student to begin with; left out, the live one."),
    ] = None,
    promote: Annotated[
        Literal["if_better", "never"],
        typer.Option(help="Whether the new student goes live where it beats the live one."),
    ] = "if_better",
    seeds: Annotated[str | None, typer.Option(metavar="N,N,N", help="Seeds, one pair of nets each.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key with the same order makes one job only.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay and watch the job to its end.")] = False,
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Distil a student again on images that gateways kept, and promote the new one where it is better.

    Another budget is for a whole order: `imago jobs submit SPEC`.
    """
    order: dict[str, object] = {"kind": "redistillation", "name": name, "promote": promote}
    order |= {"collection": collection, "dataset": dataset, "student": student}
    if seeds is not None:
        order["seeds"] = numbers("--seeds", seeds)
    with gateway_of(context, gateway) as client:
        job = client.submit(json.dumps(order).encode(), idempotency_key)
        if watch:
            watch_to_end(client, job, as_json)
        else:
            emit(job, as_json, job.id)


def _words(deleted: KeptDeleted) -> list[str]:
    said = [f"{deleted.images:,} images of {deleted.name!r} are removed"]
    if deleted.datasets:
        names = ", ".join(deleted.datasets)
        said.append(
            f"removed with them: {names}"
            if deleted.datasets_removed
            else f"copies lie in the datasets {names}; --datasets removes these as well"
        )
    if deleted.still_kept:
        said.append("the traffic policy goes on keeping under this name: PUT /v1/traffic without `keeping`")
    return said
