"""`imago experiments`: list them, run some, and write what came of it."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from experiments import charts, pages
from experiments.experiment import SEEDS, Experiment, Form, Step
from experiments.registry import EXPERIMENTS
from experiments.result import ENOUGH_SEEDS, ExperimentFacts, ExperimentResult
from experiments.runner import datasets_of
from experiments.runner import run as run_experiment
from services.cli import watch
from services.cli.commands.common import JsonOption, console, outside, table
from services.cli.commands.run import INTERRUPTED, watched
from services.cli.errors import CommandFailed
from services.cli.settings import CliSettings
from services.cli.signals import interruptible
from services.cli.stack import Stack
from services.cli.state import read_stack
from shared import settings as shared_settings
from shared.client import Client
from shared.contracts.jobs import JobView

app = typer.Typer(help="Run the experiments of the sources.", no_args_is_help=True)

DOCS = Path("docs/experiments")


@app.command("list")
def list_experiments(as_json: JsonOption = False) -> None:
    """List the experiments with their published figures."""
    if as_json:
        for experiment in EXPERIMENTS.values():
            typer.echo(_facts(experiment))
        return
    rows = [
        (one.name, one.title, one.source, one.to_reach, f"{one.minutes[0]} / {one.minutes[1]} min")
        for one in EXPERIMENTS.values()
    ]
    columns = ("name", "what", "source", "to reach", "full / reduced")
    console().print(table(columns, rows))


@app.command()
def run(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="Names, or `all`.")],
    reduced: Annotated[
        bool, typer.Option("--reduced", help="The form that finishes on two CPU cores.")
    ] = False,
    seeds: Annotated[str, typer.Option(metavar="N,N,…", help="Of the students.")] = "0,1,2",
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            "--gateway",
            metavar="URL",
            envvar="IMAGO_GATEWAY_URL",
            help="Gateway of a running stack. Left out: the stack of the state directory, or one of its own.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(file_okay=False, help="Where the files go.")] = DOCS,
    as_json: JsonOption = False,
) -> None:
    """Run experiments and write NAME.md, NAME.json, NAME.png and the index.

    Jobs that succeeded before with the same spec are not run again.
    """
    chosen = [_experiment(name) for name in (EXPERIMENTS if names == ["all"] else names)]
    form = Form(reduced=reduced, seeds=_seeds(seeds))
    said = Console(stderr=True, highlight=False) if as_json else console()
    try:
        with interruptible(), _gateway(context, url, said) as client:
            for experiment in chosen:
                result = _run(experiment, form, client, said, out)
                if as_json:
                    typer.echo(result.model_dump_json())
    except KeyboardInterrupt:
        said.print("interrupted; the same command goes on from here", markup=False)
        sys.exit(INTERRUPTED)


class _Told:
    """Tells a person on the console how the run goes."""

    def __init__(self, client: Client, out: Console) -> None:
        self._client = client
        self._out = out

    def step(self, step: Step, number: int, steps: int) -> None:
        self._out.print(f"step {number} of {steps}: {step.name}", markup=False)

    def found(self, job: JobView) -> None:
        self._out.print(f"   job {job.id} has this spec: {job.state}", markup=False)

    def watch(self, job: JobView) -> JobView:
        self._out.print(f"   job {job.id}", markup=False)
        return watch.succeeded(watch.watch(self._client, job, self._out))


def _run(experiment: Experiment, form: Form, client: Client, said: Console, out: Path) -> ExperimentResult:
    said.print(f"\n{experiment.name}, {form.name} form: {experiment.title}", style="bold", markup=False)
    _check_datasets(experiment, form, client)
    if len(form.seeds) < ENOUGH_SEEDS:
        said.print(f"   fewer than {ENOUGH_SEEDS} seeds: the page will say so", markup=False)
    result = run_experiment(experiment, form, client, _Told(client, said), command=_command(experiment, form))
    for path in pages.write(out, result, charts.png(result)):
        said.print(f"   {path}", markup=False, soft_wrap=True)
    everything = pages.index(tuple(EXPERIMENTS.values()), pages.results_in(out))
    (out / pages.INDEX).write_text(everything)
    said.print(result.finding.verdict, markup=False)
    return result


def _check_datasets(experiment: Experiment, form: Form, client: Client) -> None:
    """Refuse before an hour of training what would fail after it."""
    there = {dataset.name for dataset in client.datasets().datasets if dataset.available}
    missing = sorted(datasets_of(experiment, form) - there)
    if missing:
        raise CommandFailed(
            "no-dataset",
            f"{experiment.name} needs {', '.join(missing)}, which the gateway does not have",
            "Set IMAGO_DATA_DIR where the stack is started to a folder that holds it.",
        )


@contextmanager
def _gateway(context: typer.Context, url: str | None, said: Console) -> Iterator[Client]:
    """Open a client of the stack that was named, or runs, or is started here and stopped at the end."""
    settings = shared_settings.load(CliSettings)
    running = read_stack(settings.absolute_state_dir) if url is None else None
    transport = outside(context).transport
    if url or running:
        with Client(url or running.gateway_url, transport=transport, key=settings.api_key) as client:  # type: ignore[union-attr]
            yield client
        return

    def say(words: str) -> None:
        said.print(words, markup=False, soft_wrap=True)

    with Stack(settings, any_port=True, say=say) as stack:
        state = stack.start()
        with watched(stack), Client(state.gateway_url, key=settings.api_key) as client:
            yield client


def _experiment(name: str) -> Experiment:
    if name not in EXPERIMENTS:
        raise CommandFailed(
            "experiment-not-found",
            f"there is no experiment {name!r}",
            f"There are: {', '.join(EXPERIMENTS)}.",
        )
    return EXPERIMENTS[name]


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"--seeds takes whole numbers with commas between, got {text!r}") from error
    if len(set(seeds)) < 2 or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise typer.BadParameter(f"--seeds takes at least two different numbers of 0 or more, got {text!r}")
    return seeds


def _command(experiment: Experiment, form: Form) -> str:
    words = ["imago", "experiments", "run", experiment.name]
    words += ["--reduced"] if form.reduced else []
    words += ["--seeds", ",".join(map(str, form.seeds))] if form.seeds != SEEDS else []
    return shlex.join(words)


def _facts(experiment: Experiment) -> str:
    return ExperimentFacts(
        name=experiment.name,
        title=experiment.title,
        source=experiment.source,
        published=experiment.published,
        to_reach=experiment.to_reach,
        reduced=experiment.reduced,
    ).model_dump_json()
