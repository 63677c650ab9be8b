"""`imago students`: list, show, promote, rollback."""

from typing import Annotated

import typer

from services.cli.commands.common import GatewayOption, JsonOption, emit, gateway_of, table
from shared.contracts.students import StudentCard

app = typer.Typer(help="Look at students and choose which one answers.", no_args_is_help=True)

Version = Annotated[str, typer.Argument(metavar="VERSION", help="The student's version.")]


@app.command("list")
def list_students(context: typer.Context, gateway: GatewayOption = None, as_json: JsonOption = False) -> None:
    """List students, newest first."""
    with gateway_of(context, gateway) as client:
        students = client.students()
    rows = [
        (
            "●" if student.live else "",
            student.version,
            student.name,
            f"{student.accuracy:.2%}",
            student.verdict,
            f"{student.parameters:,}",
            f"{student.created_at:%Y-%m-%d %H:%M:%S}",
        )
        for student in students.students
    ]
    columns = ("live", "version", "name", "accuracy", "verdict", "parameters", "created (UTC)")
    emit(students, as_json, table(columns, rows))


@app.command()
def show(
    context: typer.Context, version: Version, gateway: GatewayOption = None, as_json: JsonOption = False
) -> None:
    """Show a student's card."""
    with gateway_of(context, gateway) as client:
        card = client.student(version)
    comparison = card.comparison
    low, high = (100 * bound for bound in comparison.interval)
    rows = [
        ("version", card.version),
        ("job", card.job_id),
        ("network", f"{card.architecture.architecture}, {card.parameters:,} parameters"),
        ("classes", ", ".join(card.classes)),
        ("teacher", _teacher(card)),
        ("dataset", f"{card.dataset} ({card.dataset_digest[:12]})"),
        ("temperature", f"{card.objective.temperature:g}"),
        ("accuracy", f"{card.evaluation.accuracy:.2%} of {card.evaluation.examples:,} test images"),
        ("calibration", f"ECE {card.evaluation.ece:.4f}, NLL {card.evaluation.nll:.4f} nats"),
        ("verdict", comparison.verdict.value),
        ("gain", f"{100 * comparison.gain:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}"),
        *((f"latency, batch {x.batch}", f"{x.p50_ms:.3f} ms (p99 {x.p99_ms:.3f})") for x in card.latency),
        ("served graph", _served_graph(card)),
    ]
    emit(card, as_json, table(("", ""), rows))


@app.command()
def promote(
    context: typer.Context, version: Version, gateway: GatewayOption = None, as_json: JsonOption = False
) -> None:
    """Let this student answer predictions."""
    with gateway_of(context, gateway) as client:
        live = client.promote(version)
    emit(live, as_json, f"{live.version} is live")


@app.command()
def rollback(context: typer.Context, gateway: GatewayOption = None, as_json: JsonOption = False) -> None:
    """Let the student answer that was live before."""
    with gateway_of(context, gateway) as client:
        live = client.rollback()
    emit(live, as_json, f"{live.version} is live again")


def _served_graph(card: StudentCard) -> str:
    if card.graphs is None:
        return "as trained, float32"
    served = next(one for one in card.graphs.candidates if one.served)
    return f"{served.name}: {served.reason} (measured on {card.graphs.cpu})"


def _teacher(card: StudentCard) -> str:
    if card.teacher is None or card.teacher_digest is None:
        return "none: it learned from itself or from its peers"
    return f"{card.teacher} ({card.teacher_digest[:12]}), {card.teacher_parameters or 0:,} parameters"
