"""`imago jobs report` and `imago jobs checkpoint`: print or fetch what a job leaves."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from services.cli.commands.common import GatewayOption, JsonOption, gateway_of
from services.cli.errors import CommandFailed
from shared.artefacts.files import write_atomic
from shared.client import Client
from shared.contracts.reports import REPORT_MD


def report(
    context: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Fetch the report's files into this folder: the plots as well."),
    ] = None,
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the report of a finished job, as Markdown or as JSON; with --out fetch it with its plots."""
    with gateway_of(context, gateway) as client:
        paths = save_report(client, job, out) if out is not None else ()
        if as_json:
            typer.echo(client.report(job).model_dump_json(indent=2))
        elif out is None:
            typer.echo(client.report_markdown(job))
        else:
            for path in paths:
                typer.echo(path)


def checkpoint(
    context: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where it goes, as safetensors.")],
    gateway: GatewayOption = None,
) -> None:
    """Fetch the newest checkpoint of a job's training, cancelled or not, with its best weights so far."""
    aside = out.with_name(f".{out.name}.part")
    try:
        with gateway_of(context, gateway) as client, aside.open("wb") as file:
            size_bytes = client.checkpoint(job, file)
        aside.replace(out)
    except OSError as error:
        raise CommandFailed(
            "file-not-writable", f"{out}: {error.strerror}", "Name a file in a folder that can be written."
        ) from error
    finally:
        with suppress(OSError):  # renamed, or never made
            aside.unlink()
    typer.echo(f"{out} ({size_bytes:,} bytes)")


def save_report(client: Client, job_id: str, directory: Path) -> tuple[Path, ...]:
    """Copy all files of a report from the gateway; return where they lie, the page for people first."""
    names = sorted(client.report(job_id).files, key=lambda name: name != REPORT_MD)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name in names:
            write_atomic(directory / name, client.report_file(job_id, name))
    except OSError as error:
        raise CommandFailed(
            "folder-not-writable", f"{directory}: {error.strerror}", "Name a folder that can be written."
        ) from error
    return tuple(directory / name for name in names)
