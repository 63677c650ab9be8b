"""`imago up` and `imago demo`: start everything on this machine."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from services.cli.commands.common import console
from services.cli.demo import run_demo
from services.cli.errors import CommandFailed, StackFailed
from services.cli.settings import CliSettings
from services.cli.signals import interruptible
from services.cli.stack import Stack
from services.cli.state import StackState
from shared import settings as shared_settings
from shared.client import Client, GatewayError

INTERRUPTED = 130
"""What a shell says of a command that Ctrl-C ended."""


def up(
    as_json: Annotated[
        bool, typer.Option("--json", help="One line of JSON once everything is ready.")
    ] = False,
) -> None:
    """Start everything on this machine.

    Redis, teacher, worker and gateway run until Ctrl-C; then all of them are stopped.
    """
    settings = shared_settings.load(CliSettings)
    out = console()
    told = Console(stderr=True, highlight=False)
    say = _teller(told if as_json else out)
    try:
        with interruptible(), Stack(settings, say=say) as stack:
            state = stack.start()
            if as_json:
                typer.echo(state.model_dump_json())
            else:
                _tell_addresses(out, state)
                say("Ctrl-C stops everything.")
            stack.supervise()
    except KeyboardInterrupt:
        say("everything is stopped")


def demo(
    as_json: Annotated[
        bool, typer.Option("--json", help="Answer with the report as JSON; the rest goes to standard error.")
    ] = False,
) -> None:
    """Show the main job on real digits.

    Starts everything, trains a teacher, distils a student, promotes it, asks it about a digit, and leaves.
    """
    settings = shared_settings.load(CliSettings)
    out = Console(stderr=True, highlight=False) if as_json else console()
    say = _teller(out)
    try:
        with interruptible(), Stack(settings, any_port=True, say=say) as stack:
            state = stack.start()
            _tell_addresses(out, state)
            with watched(stack), Client(state.gateway_url, key=settings.api_key) as client:
                report = run_demo(client, out, stack.state_dir, settings.data_dir)
    except KeyboardInterrupt:
        say("interrupted; everything is stopped")
        sys.exit(INTERRUPTED)
    say("everything is stopped")
    if as_json:
        typer.echo(report.model_dump_json(indent=2))


@contextmanager
def watched(stack: Stack) -> Iterator[None]:
    """Watch over the stack in the background; raise `StackFailed` here as soon as it is given up."""
    given_up: list[StackFailed] = []

    def failed(error: StackFailed) -> None:
        given_up.append(error)
        main = threading.main_thread().ident
        assert main is not None
        # Interrupts the main thread even while it waits for an answer.
        signal.pthread_kill(main, signal.SIGTERM)

    stack.supervise_in_background(failed)
    try:
        yield
    except (KeyboardInterrupt, CommandFailed, GatewayError):
        if given_up:
            raise given_up[0] from None
        raise


def _teller(out: Console) -> Callable[[str], None]:
    return lambda words: out.print(words, markup=False, soft_wrap=True)


def _tell_addresses(out: Console, state: StackState) -> None:
    for name, value in (
        ("gateway", f"{state.gateway_url} (API description: {state.gateway_url}/docs)"),
        ("teacher", state.teacher_url),
        ("redis", state.redis_url),
        ("state", state.state_dir),
    ):
        out.print(f"{name:<8} {value}", markup=False, soft_wrap=True)
