"""What all commands share: their common options, the client they speak through, how an answer is shown."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import httpx
import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from services.cli.settings import DEFAULT_GATEWAY_URL, CliSettings
from services.cli.state import read_stack
from shared import settings as shared_settings
from shared.client import Client
from shared.contracts.base import Contract

GatewayOption = Annotated[
    str | None,
    typer.Option(
        "--gateway",
        metavar="URL",
        envvar="IMAGO_GATEWAY_URL",
        help=f"The gateway. Left out: the running stack of the state directory, or {DEFAULT_GATEWAY_URL}.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer as JSON on standard output.")]


@dataclass(frozen=True)
class Outside:
    """How commands reach the outside world; a test hands in its own."""

    transport: httpx.BaseTransport | None = None


def gateway_of(context: typer.Context, url: str | None) -> Client:
    """Return a client of the gateway: the one named, the one of the running stack, or the usual place."""
    settings = shared_settings.load(CliSettings)
    if url is None:
        stack = read_stack(settings.absolute_state_dir)
        url = stack.gateway_url if stack else DEFAULT_GATEWAY_URL
    return Client(url, transport=outside(context).transport, key=settings.api_key)


def outside(context: typer.Context) -> Outside:
    """Return how this command reaches the outside world."""
    return context.find_object(Outside) or Outside()


_PIPED_COLUMNS = 240
"""Where nobody looks at a terminal: a name that is broken in two lines is of no use to `grep`."""


def console() -> Console:
    """Return a console on the standard output of this moment; COLUMNS says how wide, if anything does."""
    narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if narrow else _PIPED_COLUMNS)


def emit(answer: Contract, as_json: bool, *shown: RenderableType) -> None:
    """Show an answer: as JSON, or as what the command made of it."""
    if as_json:
        typer.echo(answer.model_dump_json(indent=2))
        return
    out = console()
    for part in shown:
        out.print(part, markup=False, soft_wrap=isinstance(part, str))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> Table:
    """Return a table. What the cells say is text, not markup."""
    made = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made
