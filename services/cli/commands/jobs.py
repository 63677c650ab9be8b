"""`imago jobs`: submit, show, watch, list, cancel, pause, resume, report, checkpoint."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli import watch as watching
from services.cli.commands.common import GatewayOption, JsonOption, console, emit, gateway_of, table
from services.cli.commands.report import checkpoint, report
from services.cli.errors import CommandFailed
from shared.client import Client
from shared.contracts.jobs import JobState, JobView

app = typer.Typer(help="Train teachers, distil students, watch jobs.", no_args_is_help=True)

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")]


@app.command()
def submit(
    context: typer.Context,
    spec: Annotated[
        str | None,
        typer.Argument(metavar="[SPEC]", help="A JSON file with the whole spec, or - for standard input."),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(help="teacher or distillation; other kinds take a SPEC.", show_default=False),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What the teacher or student is called.")] = None,
    teacher: Annotated[str | None, typer.Option(help="The teacher to learn from.")] = None,
    dataset: Annotated[str | None, typer.Option(help="The dataset to learn on.")] = None,
    hidden_units: Annotated[
        str | None, typer.Option(metavar="N,N", help="Hidden layers of the net, such as 800,800.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="T of the soft targets.")] = None,
    soft_weight: Annotated[float | None, typer.Option(help="Weight of the soft targets' loss.")] = None,
    hard_weight: Annotated[float | None, typer.Option(help="Weight of the hard labels' loss.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    seeds: Annotated[str | None, typer.Option(metavar="N,N,N", help="Seeds, one net each.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key with the same spec makes one job only.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay and watch the job to its end.")] = False,
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Submit a job: from a spec file, or from options for the common case."""
    options = {
        "kind": kind, "name": name, "teacher": teacher, "dataset": dataset, "hidden_units": hidden_units,
        "temperature": temperature, "soft_weight": soft_weight, "hard_weight": hard_weight,
        "epochs": epochs, "seeds": seeds,
    }  # fmt: skip
    given = {key: value for key, value in options.items() if value is not None}
    if (spec is None) == (not given):
        raise typer.BadParameter("give either a SPEC file or options such as --kind, --name, --dataset")
    body = read_spec(spec) if spec is not None else json.dumps(spec_of(given)).encode()
    with gateway_of(context, gateway) as client:
        job = client.submit(body, idempotency_key)
        if watch:
            watch_to_end(client, job, as_json)
        else:
            emit(job, as_json, job.id)


def spec_of(given: dict[str, Any]) -> dict[str, Any]:
    """Return the spec that the options spell; what was not given is left to the gateway's defaults."""
    kind = given.get("kind", "distillation")
    spec: dict[str, Any] = {"kind": kind}
    spec |= {key: given[key] for key in ("name", "teacher", "dataset") if key in given}
    objective = {key: given[key] for key in ("temperature", "soft_weight", "hard_weight") if key in given}
    if objective:
        spec["objective"] = objective
    if "epochs" in given:
        spec["budget"] = {"epochs": given["epochs"]}
    if "seeds" in given:
        spec["seeds"] = numbers("--seeds", given["seeds"])
    if "hidden_units" in given:
        net = {"architecture": "mlp", "hidden_units": numbers("--hidden-units", given["hidden_units"])}
        spec |= {"student": {"network": net}} if kind == "distillation" else {"architecture": net}
    return spec


@app.command()
def show(
    context: typer.Context, job: JobId, gateway: GatewayOption = None, as_json: JsonOption = False
) -> None:
    """Show a job as it is now."""
    with gateway_of(context, gateway) as client:
        view = client.job(job)
    emit(view, as_json, table(("", ""), _facts(view)))


@app.command()
def watch(
    context: typer.Context,
    job: JobId,
    gateway: GatewayOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One event a line as JSON, and the job as it ended as the last.")
    ] = False,
) -> None:
    """Watch a job to its end; exit status 1 where it does not succeed. Can be left and taken up again."""
    with gateway_of(context, gateway) as client:
        watch_to_end(client, client.job(job), as_json)


@app.command("list")
def list_jobs(
    context: typer.Context,
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only jobs of this kind.")] = None,
    parent: Annotated[
        str | None, typer.Option(metavar="JOB", help="Only the child jobs that this job made.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Most jobs to show.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="next_cursor of the page before.")] = None,
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    with gateway_of(context, gateway) as client:
        page = client.jobs(state=state, kind=kind, parent=parent, limit=limit, cursor=cursor)
    rows = [
        (job.id, job.spec.kind, job.spec.name, job.state.value, f"{job.created_at:%Y-%m-%d %H:%M:%S}")
        for job in page.jobs
    ]
    more = [f"More: --cursor {page.next_cursor}"] if page.next_cursor else []
    emit(page, as_json, table(("job", "kind", "name", "state", "created (UTC)"), rows), *more)


@app.command()
def cancel(
    context: typer.Context, job: JobId, gateway: GatewayOption = None, as_json: JsonOption = False
) -> None:
    """Cancel a job and its child jobs: at once where they wait, within seconds where they run."""
    with gateway_of(context, gateway) as client:
        view = client.cancel(job)
    words = "cancelled" if view.state is JobState.CANCELLED else "will stop"
    emit(view, as_json, f"{view.id} {words}")


@app.command()
def pause(
    context: typer.Context, job: JobId, gateway: GatewayOption = None, as_json: JsonOption = False
) -> None:
    """Pause a job and its child jobs: what runs makes a checkpoint and leaves its worker within seconds."""
    with gateway_of(context, gateway) as client:
        view = client.pause(job)
    words = "paused" if view.state is JobState.PAUSED else "will pause"
    emit(view, as_json, f"{view.id} {'will be cancelled' if view.cancel_requested else words}")


@app.command()
def resume(
    context: typer.Context, job: JobId, gateway: GatewayOption = None, as_json: JsonOption = False
) -> None:
    """Resume a paused job and its child jobs, each from its last checkpoint."""
    with gateway_of(context, gateway) as client:
        view = client.resume(job)
    emit(view, as_json, f"{view.id} {view.state.value}")


app.command()(report)
app.command()(checkpoint)


def watch_to_end(client: Client, job: JobView, as_json: bool) -> None:
    """Show a job until it ends, then what came of it; raises `JobNotSucceeded`."""
    if as_json:
        for event in client.follow(job.id):
            typer.echo(event.model_dump_json())
        ended = client.job(job.id)
        typer.echo(ended.model_dump_json())
        watching.succeeded(ended)
        return
    out = console()
    out.print(f"job {job.id}", markup=False)
    ended = watching.succeeded(watching.watch(client, job, out))
    out.print(table(("", ""), _facts(ended)))


def _facts(job: JobView) -> list[tuple[str, str]]:
    dataset = job.spec.dataset
    facts: list[tuple[str, object]] = [
        ("job", job.id),
        ("kind", f"{job.spec.kind} {job.spec.name!r}" + (f" on {dataset!r}" if dataset else "")),
        ("state", job.state.value + _asked(job)),
        ("created", job.created_at.isoformat(timespec="seconds")),
        ("attempts", job.attempts or None),
        ("parent", job.parent),
        ("children", f"{len(job.children)} jobs, see jobs list --parent {job.id}" if job.children else None),
    ]
    if job.started_at and job.finished_at:
        facts.append(("took", watching.duration((job.finished_at - job.started_at).total_seconds())))
    if job.progress and job.state in (JobState.RUNNING, JobState.WAITING, JobState.PAUSED):
        progress = job.progress
        facts.append(("stage", f"{progress.stage} {progress.done}/{progress.total} {progress.unit}"))
    if job.failure:
        facts += [("failure", f"{job.failure.code}: {job.failure.detail}"), ("remedy", job.failure.remedy)]
    if job.result:
        facts += [(key, value) for key, value in job.result.model_dump().items()]
    return [(name, str(value)) for name, value in facts if value not in (None, "")]


def _asked(job: JobView) -> str:
    if job.state is not JobState.RUNNING:
        return ""
    return " (to be cancelled)" if job.cancel_requested else " (to pause)" if job.pause_requested else ""


def read_spec(spec: str) -> bytes:
    """Return what a SPEC argument names: a file, or standard input where it is `-`."""
    if spec == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(spec).read_bytes()
    except OSError as error:
        raise CommandFailed("spec-not-readable", f"{spec}: {error.strerror}", "Give a JSON file.") from error


def numbers(option: str, text: str) -> list[int]:
    """Return the whole numbers that an option lists."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{option} takes whole numbers with commas between, got {text!r}") from error
