"""`imago traffic`: show, set, off."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from services.cli.commands.common import GatewayOption, JsonOption, emit, gateway_of, table
from services.cli.commands.jobs import read_spec
from shared.contracts.traffic import Canary, Cascade, Keeping, Shadow, TrafficPolicy, TrafficView

Part = Literal["canary", "shadow", "cascade", "keeping"]

app = typer.Typer(help="Say which student answers how much of the traffic.", no_args_is_help=True)


def _option(metavar: str, help_text: str) -> Any:
    return typer.Option(metavar=metavar, help=help_text, show_default=False)


@app.command()
def show(context: typer.Context, gateway: GatewayOption = None, as_json: JsonOption = False) -> None:
    """Show what holds, and what of it cannot."""
    with gateway_of(context, gateway) as client:
        view = client.traffic()
    _emit(view, as_json)


@app.command("set")
def set_policy(
    context: typer.Context,
    file: Annotated[
        Path | None,
        _option("FILE", "The whole policy as JSON, - for standard input; it replaces the one before."),
    ] = None,
    canary: Annotated[str | None, _option("VERSION", "A candidate that answers a share.")] = None,
    canary_share: Annotated[float | None, _option("SHARE", "Of the requests, 0 to 1.")] = None,
    shadow: Annotated[str | None, _option("VERSION", "A candidate that is shown copies.")] = None,
    shadow_teacher: Annotated[
        bool, typer.Option("--shadow-teacher", help="Show the copies to the teacher.")
    ] = False,
    shadow_share: Annotated[float | None, _option("SHARE", "Of the requests that are copied.")] = None,
    cascade_threshold: Annotated[
        float | None, _option("P", "Confidence below which the teacher answers.")
    ] = None,
    cascade_share: Annotated[
        float | None, _option("SHARE", "In its place: of the images that the teacher is to answer.")
    ] = None,
    cascade_deadline_ms: Annotated[int | None, _option("MS", "How long the teacher may take.")] = None,
    keep: Annotated[
        str | None, _option("COLLECTION", "Consent: keep images that the student was not sure of.")
    ] = None,
    keep_escalated: Annotated[
        bool | None, typer.Option("--keep-escalated/--no-keep-escalated", show_default=False)
    ] = None,
    keep_disagreed: Annotated[
        bool | None, typer.Option("--keep-disagreed/--no-keep-disagreed", show_default=False)
    ] = None,
    keep_most: Annotated[int | None, _option("N", "Images that are kept at most.")] = None,
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change the parts that are named and leave the others; with --file, replace all of it."""
    given: dict[Part, dict[str, Any]] = {
        "canary": {"version": canary, "share": canary_share},
        "shadow": _shadow(shadow, shadow_teacher) | {"share": shadow_share},
        "cascade": _cascade(cascade_threshold, cascade_share) | {"deadline_ms": cascade_deadline_ms},
        "keeping": {
            "collection": keep,
            "escalated": keep_escalated,
            "disagreed": keep_disagreed,
            "most_images": keep_most,
        },
    }
    changes = {part: said for part, facts in given.items() if (said := _said(facts))}
    if (file is None) == (not changes):
        raise typer.BadParameter("give either --file or the parts that are to change")
    with gateway_of(context, gateway) as client:
        if file is not None:
            view = client.set_traffic(read_spec(str(file)))
        else:
            before = client.traffic()
            policy = json.dumps(changed(before.policy, changes)).encode()
            # Under the revision that was read: what somebody else changes meanwhile must not be undone.
            view = client.set_traffic(policy, revision=before.revision)
    _emit(view, as_json)


@app.command()
def off(
    context: typer.Context,
    parts: Annotated[
        list[str] | None, typer.Argument(metavar="[canary|shadow|cascade|keeping]…", show_default=False)
    ] = None,
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Switch parts off; without a name, all of them."""
    for part in parts or ():
        if part not in get_args(Part):
            raise typer.BadParameter(f"{part!r} is none of {', '.join(get_args(Part))}")
    with gateway_of(context, gateway) as client:
        if parts:
            before = client.traffic()
            policy = before.policy.model_copy(update=dict.fromkeys(parts))
            view = client.set_traffic(policy, revision=before.revision)
        else:
            view = client.clear_traffic()
    _emit(view, as_json)


def changed(policy: TrafficPolicy, changes: dict[Part, dict[str, Any]]) -> dict[str, Any]:
    """Return the policy as JSON with some facts of its parts changed; whether it can be is for the gateway.

    Args:
        policy: the one before.
        changes: facts by part; one whose value is `_Off` is taken away.
    """
    parts: dict[str, Any] = policy.model_dump(mode="json", exclude_none=True)
    for part, facts in changes.items():
        merged = parts.get(part, {}) | facts
        parts[part] = {name: value for name, value in merged.items() if value is not _Off}
    return parts


class _Off:
    """In the place of a value: the fact is taken out of its part."""


def _said(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}


def _shadow(version: str | None, teacher: bool) -> dict[str, Any]:
    if version is not None and teacher:
        raise typer.BadParameter("a shadow is either a student or the teacher")
    if teacher:
        return {"to": "teacher", "version": _Off}
    return {"to": "student" if version is not None else None, "version": version}


def _cascade(threshold: float | None, share: float | None) -> dict[str, Any]:
    if threshold is not None and share is not None:
        raise typer.BadParameter("give either a threshold or a share to escalate")
    if threshold is not None:
        return {"threshold": threshold, "share": _Off}
    if share is not None:
        return {"share": share, "threshold": _Off}
    return {}


def _emit(view: TrafficView, as_json: bool) -> None:
    policy = view.policy
    rows: list[Sequence[str]] = [
        ("canary", _told_canary(policy.canary)),
        ("shadow", _told_shadow(policy.shadow)),
        ("cascade", _told_cascade(policy.cascade)),
        ("keeping", _told_keeping(policy.keeping)),
        *(("problem", problem) for problem in view.problems),
    ]
    emit(view, as_json, table(("", ""), rows))


def _told_canary(canary: Canary | None) -> str:
    return "off" if canary is None else f"{canary.version} answers {canary.share:.2%} of the requests"


def _told_shadow(shadow: Shadow | None) -> str:
    if shadow is None:
        return "off"
    whom = shadow.version if shadow.to == "student" else "the teacher"
    return f"copies of {shadow.share:.2%} of the requests go to {whom}"


def _told_cascade(cascade: Cascade | None) -> str:
    if cascade is None:
        return "off"
    when = (
        f"below a confidence of {cascade.threshold:g}"
        if cascade.threshold is not None
        else f"the {cascade.share:.2%} of the images that the student is least sure of"
    )
    return f"the teacher answers {when}, within {cascade.deadline_ms} ms"


def _told_keeping(keeping: Keeping | None) -> str:
    if keeping is None:
        return "off"
    reasons = [name for name in ("escalated", "disagreed") if getattr(keeping, name)]
    return (
        f"{' and '.join(reasons) or 'no'} images are kept in {keeping.collection}, "
        f"{keeping.most_images:,} at most"
    )
