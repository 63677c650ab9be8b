"""Puts the command line together: `imago` and all its commands."""

import sys
from collections.abc import Sequence

import typer
from rich.console import Console

from services.cli.commands import (
    datasets,
    experiments,
    jobs,
    kept,
    keys,
    run,
    students,
    teachers,
    traffic,
    transfer_sets,
)
from services.cli.commands.common import Outside
from services.cli.commands.predict import predict
from services.cli.errors import CommandFailed, StackFailed, line
from shared.errors import DistillationError

app = typer.Typer(
    name="imago",
    help="Distils image classifiers and serves the result.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(run.up)
app.command()(run.demo)
app.add_typer(jobs.app, name="jobs")
app.command()(predict)
app.add_typer(students.app, name="students")
app.add_typer(kept.app, name="kept")
app.command()(kept.redistil)
app.add_typer(traffic.app, name="traffic")
app.add_typer(datasets.app, name="datasets")
app.add_typer(teachers.app, name="teachers")
app.add_typer(transfer_sets.app, name="transfer-sets")
app.add_typer(experiments.app, name="experiments")
app.add_typer(keys.app, name="keys")


def main(arguments: Sequence[str] | None = None, outside: Outside | None = None) -> None:
    """Run one command and leave: 0 it is done, 1 it could not be (one line says why), 2 it was misspelt."""
    try:
        app(args=list(arguments) if arguments is not None else None, obj=outside or Outside())
    except (CommandFailed, DistillationError) as error:
        errors = Console(stderr=True, highlight=False)
        errors.print(f"error: {line(error)}", markup=False, soft_wrap=True)
        if isinstance(error, StackFailed) and error.details:
            errors.print(error.details, markup=False, soft_wrap=True)
        sys.exit(1)
