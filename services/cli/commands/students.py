"""`imago students`: list, show, promote, rollback, compare, delete."""

from typing import Annotated

import typer

from services.cli.commands.common import GatewayOption, JsonOption, emit, gateway_of, table
from shared.contracts.comparisons import Bounds, CalibrationDrift, Disagreement, TrafficLatency
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


@app.command()
def delete(context: typer.Context, version: Version, gateway: GatewayOption = None) -> None:
    """Delete a student; refused for the live one, and where the traffic policy or a job names it."""
    with gateway_of(context, gateway) as client:
        client.delete_student(version)
    typer.echo(f"{version} is deleted")


@app.command()
def compare(
    context: typer.Context, version: Version, gateway: GatewayOption = None, as_json: JsonOption = False
) -> None:
    """Compare a student on the traffic of now with the live one, its teacher, and its card."""
    with gateway_of(context, gateway) as client:
        found = client.student_comparison(version)
    rows = [
        ("version", found.version),
        ("role", found.role),
        ("counted since", found.since.isoformat(timespec="seconds")),
        ("images", f"{found.answered_images:,} answered, {found.shadowed_images:,} as copies"),
        ("against the live one", _disagreement(found.against_live)),
        ("against the teacher", _disagreement(found.against_teacher)),
        ("a call", _time(found.latency)),
        ("a call of the live one", _time(found.live_latency)),
        ("confidence", _confidence(found.drift)),
        ("classes named", _classes(found.drift)),
    ]
    emit(found, as_json, table(("", ""), [row for row in rows if row[1]]))


def _disagreement(found: Disagreement | None) -> str:
    if found is None:
        return ""
    low, high = found.interval
    return (
        f"another class than {found.reference} for {found.disagreed:,} of {found.compared:,} images "
        f"({found.share:.2%}, 95 % interval {low:.2%} to {high:.2%})"
    )


def _time(found: TrafficLatency | None) -> str:
    if found is None or found.call is None:
        return ""
    images = "" if found.images_per_call is None else f", {found.images_per_call:.1f} images a call"
    return f"p50 {_bounds(found.call.p50)}, p99 {_bounds(found.call.p99)}{images}"


def _bounds(found: Bounds) -> str:
    if found.at_most_ms is None:
        return f"above {found.above_ms:g} ms"
    return f"{found.above_ms:g} to {found.at_most_ms:g} ms"


def _confidence(found: CalibrationDrift | None) -> str:
    if found is None:
        return ""
    test = (
        "" if found.test_mean_confidence is None else f", {found.test_mean_confidence:.2%} on the test images"
    )
    return f"{found.mean_confidence:.2%}{test}"


def _classes(found: CalibrationDrift | None) -> str:
    if found is None or found.class_distance is None:
        return ""
    chance = found.class_distance_by_chance
    expected = "" if chance is None else f", {chance:.2%} by chance"
    return f"{found.class_distance:.2%} away from the shares on the test images{expected}"


def _served_graph(card: StudentCard) -> str:
    if card.graphs is None:
        return "as trained, float32"
    served = next(one for one in card.graphs.candidates if one.served)
    return f"{served.name}: {served.reason} (measured on {card.graphs.cpu})"


def _teacher(card: StudentCard) -> str:
    if card.teacher is None or card.teacher_digest is None:
        return "none: it learned from itself or from its peers"
    return f"{card.teacher} ({card.teacher_digest[:12]}), {card.teacher_parameters or 0:,} parameters"
