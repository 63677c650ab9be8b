"""`imago transfer-sets`: list, show, build, download, delete."""

import json
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from services.cli.commands.common import GatewayOption, JsonOption, emit, gateway_of, table
from services.cli.commands.jobs import read_spec, watch_to_end
from services.cli.errors import CommandFailed
from services.cli.watch import duration
from shared.client import Client
from shared.contracts.transfer_sets import TransferSetCard, TransferSetSummary

app = typer.Typer(help="Build, look at, fetch and delete what teachers were asked.", no_args_is_help=True)

DigestArgument = Annotated[
    str,
    typer.Argument(metavar="DIGEST", help="Of the transfer set, or the first 6 characters of it and more."),
]
_WHOLE: Final = 64
_FEWEST: Final = 6
_MOST_CLASSES: Final = 40
"""Classes of which `show` prints a line; --json has them all."""


@app.command("list")
def list_transfer_sets(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Most sets to show.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="next_cursor of the page before.")] = None,
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """List transfer sets, newest first."""
    with gateway_of(context, gateway) as client:
        page = client.transfer_sets(limit=limit, cursor=cursor)
    rows = [
        (
            one.digest[:12],
            one.teacher,
            one.dataset or f"({one.dataset_digest[:12]})",
            f"{one.images:,}",
            str(one.views),
            str(one.shards),
            _size(one.size_bytes),
            f"{one.created_at:%Y-%m-%d %H:%M:%S}",
        )
        for one in page.transfer_sets
    ]
    columns = ("digest", "teacher", "dataset", "images", "views", "shards", "size", "created (UTC)")
    more = [f"More: --cursor {page.next_cursor}"] if page.next_cursor else []
    emit(page, as_json, table(columns, rows), *more)


@app.command()
def show(
    context: typer.Context, digest: DigestArgument, gateway: GatewayOption = None, as_json: JsonOption = False
) -> None:
    """Show a transfer set: what it is made of, its coverage by class, the entropy of its targets."""
    with gateway_of(context, gateway) as client:
        card = client.transfer_set(_whole(client, digest))
    shown = [table(("", ""), _facts(card))]
    if card.summary is not None:
        shown += [_entropies(card.summary), _coverage(card.summary)]
    emit(card, as_json, *shown)


@app.command()
def build(
    context: typer.Context,
    spec: Annotated[
        str | None,
        typer.Argument(metavar="[SPEC]", help="A JSON file with the whole spec, or - for standard input."),
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="The teacher to ask.")] = None,
    dataset: Annotated[str | None, typer.Option(help="The dataset to ask about.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the job. Left out: of dataset and teacher.")] = None,
    views: Annotated[
        int | None, typer.Option(help="Views an image; the first is the image as it is.")
    ] = None,
    jitter_px: Annotated[int | None, typer.Option(help="Pixels by which views are moved at most.")] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Mirror half of the views.")] = False,
    share: Annotated[float | None, typer.Option(help="Of the images, so much is taken.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Logits kept a row; left out, all are.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the views and of the share.")] = None,
    tasks: Annotated[int | None, typer.Option(help="Child jobs that share the asking.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key with the same spec makes one job only.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch/--no-watch", help="Stay and watch the job to its end, or print its id.")
    ] = True,
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build a transfer set by a job, and watch it; what the store knows is not asked again."""
    drawn = {"views": views, "jitter_px": jitter_px, "flip": flip or None, "share": share, "top_k": top_k}
    given = _given({"name": name, "teacher": teacher, "dataset": dataset})
    given |= _given({"transfer_set": _given({**drawn, "seed": seed}), "asking": _given({"tasks": tasks})})
    if (spec is None) == (not given):
        raise typer.BadParameter("give either a SPEC file or options such as --teacher and --dataset")
    body = read_spec(spec) if spec is not None else json.dumps(_named(given)).encode()
    with gateway_of(context, gateway) as client:
        job = client.build_transfer_set(body, idempotency_key)
        if watch:
            watch_to_end(client, job, as_json)
        else:
            emit(job, as_json, job.id)


@app.command()
def download(
    context: typer.Context,
    digest: DigestArgument,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where the tar goes. Left out: transfer-set-DIGEST.tar here."),
    ] = None,
    gateway: GatewayOption = None,
) -> None:
    """Fetch a transfer set as one tar; the file has its name only once it is whole."""
    with gateway_of(context, gateway) as client:
        whole = _whole(client, digest)
        path = out or Path(f"transfer-set-{whole[:12]}.tar")
        size_bytes = _fetch(client, whole, path)
    typer.echo(f"{path} ({_size(size_bytes)})")


@app.command()
def delete(context: typer.Context, digest: DigestArgument, gateway: GatewayOption = None) -> None:
    """Delete a transfer set; refused while a job on its teacher and dataset has not ended."""
    with gateway_of(context, gateway) as client:
        whole = _whole(client, digest)
        client.delete_transfer_set(whole)
    typer.echo(f"{whole} is deleted")


def _fetch(client: Client, digest: str, path: Path) -> int:
    """Write the tar beside its place, then rename it; nothing is left of one that broke off."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with aside.open("xb") as file:
            size_bytes = client.download_transfer_set(digest, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise CommandFailed(
            "file-not-writable", f"{path}: {error.strerror}", "Name a file in a folder that can be written."
        ) from error
    finally:
        with suppress(OSError):  # renamed, or never made
            aside.unlink()
    return size_bytes


def _whole(client: Client, digest: str) -> str:
    """Return the one digest that begins like this; what fits none goes to the gateway as it is."""
    if not _FEWEST <= len(digest) < _WHOLE:
        return digest
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = client.transfer_sets(limit=100, cursor=cursor)
        found += [one.digest for one in page.transfer_sets if one.digest.startswith(digest)]
        cursor = page.next_cursor
        if cursor is None:
            break
    if len(found) > 1:
        raise CommandFailed(
            "digest-ambiguous",
            f"{len(found)} transfer sets begin with {digest!r}",
            "Give more of the digest.",
        )
    return found[0] if found else digest


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value not in (None, {})}


def _named(given: dict[str, Any]) -> dict[str, Any]:
    """Return the spec with a name for the job where none was given."""
    parts = [given[key] for key in ("dataset", "teacher") if key in given]
    return given if "name" in given else {"name": "-by-".join(parts)[:64], **given}


def _facts(card: TransferSetCard) -> list[tuple[str, str]]:
    facts = [
        ("digest", card.digest),
        ("created", card.created_at.isoformat(timespec="seconds")),
        ("teacher", f"{card.teacher} ({card.teacher_digest[:12]})"),
        ("dataset", f"{card.dataset or 'not here any more'} ({card.dataset_digest[:12]})"),
        ("rows", f"{card.rows:,}: {card.images:,} images in {card.views} views"),
        ("files", f"{_size(card.size_bytes)}, {card.shards} shards, format {card.format}"),
        ("serves", "any T" if card.tempers else f"T = {card.temperature:g} only"),
        ("options", _options(card)),
    ]
    summary = card.summary
    if summary is not None:
        cost = summary.cost
        facts += [
            ("labelled", f"{summary.rows_labelled:,} rows"),
            ("asked", f"{cost.rows_asked:,} rows in {duration(cost.seconds)}"),
            ("from cache", f"{cost.rows_from_cache:,} rows, {cost.rows_rescored:,} of them asked again"),
            ("rebuilt", f"{cost.shards_rebuilt} shards"),
            *(
                (
                    f"top-k at T = {one.temperature:g}",
                    f"KL {one.mean_nats:.2g} nats, at most {one.largest_nats:.2g}",
                )
                for one in summary.top_k_error or ()
            ),
        ]
    return facts


def _options(card: TransferSetCard) -> str:
    """Return what of the spec is not as it is by default."""
    given = card.spec.model_dump(mode="json", exclude_defaults=True)
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in given.items()) or "none"


def _entropies(summary: TransferSetSummary) -> Any:
    rows = [
        tuple(
            f"{value:.4g}"
            for value in (
                one.temperature, one.mean_nats, one.p05_nats, one.p25_nats, one.median_nats, one.p75_nats,
                one.p95_nats,
            )
        )
        for one in summary.entropy
    ]  # fmt: skip
    columns = ("T", "mean", "5 %", "25 %", "median", "75 %", "95 %")
    return table(columns, rows, "Entropy of the targets (nats)")


def _coverage(summary: TransferSetSummary) -> Any:
    shown = summary.classes[:_MOST_CLASSES]
    rows = [(one.name, f"{one.labelled:,}", f"{one.predicted:,}") for one in shown]
    if len(summary.classes) > len(shown):
        rows.append((f"and {len(summary.classes) - len(shown)} more", "", ""))
    return table(("class", "labelled", "largest logit"), rows, "Rows by class")


def _size(size_bytes: int) -> str:
    """Return a size in words: 812 B, 1.0 MB, 2.6 GB."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    size = float(size_bytes)
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"
