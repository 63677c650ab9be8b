"""`imago teachers`: list, show, add, check."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from services.cli import watch as watching
from services.cli.commands.common import GatewayOption, JsonOption, console, emit, gateway_of, table
from services.cli.errors import CommandFailed
from services.cli.findings import failed, findings_table, summary
from services.cli.teacher_orders import Said, Sources, order_of, size_of
from shared.client import Client, GatewayRefused
from shared.contracts.findings import TeacherCheckOrder
from shared.contracts.jobs import JobView
from shared.contracts.reports import TeacherCheckReport
from shared.contracts.teachers import MixedEnsemble, Nets, OnnxModel, RemoteModel, TeacherModel

app = typer.Typer(help="Look at teachers, bring your own, check them.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The teacher's name.")]
Dataset = Annotated[
    str | None,
    typer.Option(help="Whose classes it has, and on whose labelled images it is tried.", show_default=False),
]
Claimed = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE", help="What it should get right, 0 to 1; the check compares.", show_default=False
    ),
]
Watch = Annotated[
    bool, typer.Option("--watch/--no-watch", help="Stay to the end, or leave with the job's id.")
]


def _path(metavar: str, help_text: str, *, folder: bool = False) -> Any:
    return typer.Option(
        metavar=metavar,
        exists=True,
        dir_okay=folder,
        file_okay=not folder,
        help=help_text,
        show_default=False,
    )


def _text(metavar: str, help_text: str) -> Any:
    return typer.Option(metavar=metavar, help=help_text, show_default=False)


@app.command("list")
def list_teachers(context: typer.Context, gateway: GatewayOption = None, as_json: JsonOption = False) -> None:
    """List the teachers that can be learned from."""
    with gateway_of(context, gateway) as client:
        held = client.teachers()
    rows = [
        (
            teacher.name,
            teacher.digest[:12],
            str(len(teacher.classes)),
            "×".join(map(str, teacher.preprocessing.input.model_dump().values())),
            words_of(teacher.model),
            "" if teacher.test_accuracy is None else f"{teacher.test_accuracy:.2%}",
            f"{teacher.created_at:%Y-%m-%d %H:%M:%S}",
        )
        for teacher in held.teachers
    ]
    columns = ("name", "digest", "classes", "image", "model", "accuracy", "created (UTC)")
    emit(held, as_json, table(columns, rows))


@app.command()
def show(
    context: typer.Context, name: Name, gateway: GatewayOption = None, as_json: JsonOption = False
) -> None:
    """Show a teacher: what answers, what it takes, where it comes from."""
    with gateway_of(context, gateway) as client:
        teacher = client.teacher(name)
    taken, seen = teacher.preprocessing.input, teacher.preprocessing.seen
    rows = [
        ("name", teacher.name),
        ("digest", teacher.digest),
        ("model", words_of(teacher.model)),
        ("where", _where(teacher.model)),
        ("precision", teacher.precision),
        ("source", teacher.source),
        ("classes", ", ".join(teacher.classes)),
        ("images", "×".join(map(str, taken.model_dump().values()))),
        (
            "net sees",
            ""
            if seen == taken
            else f"{'×'.join(map(str, seen.model_dump().values()))}, {teacher.preprocessing.resample}",
        ),
        ("mean", ", ".join(f"{value:g}" for value in teacher.preprocessing.mean)),
        ("std", ", ".join(f"{value:g}" for value in teacher.preprocessing.std)),
        ("any T from one", "yes" if teacher.tempers else "no"),
        ("accuracy", "" if teacher.test_accuracy is None else f"{teacher.test_accuracy:.2%}"),
        ("files", ", ".join(teacher.files)),
        ("job", teacher.job_id or ""),
        ("created", teacher.created_at.isoformat(timespec="seconds")),
    ]
    emit(teacher, as_json, table(("", ""), [row for row in rows if row[1]]))


@app.command()
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the teacher is to be called.")],
    folder: Annotated[
        Path | None,
        _path(
            "DIR", "A Hugging Face or timm folder, one with an ONNX file or with our weights.", folder=True
        ),
    ] = None,
    architecture: Annotated[
        str | None, _text("NAME|JSON", "Of a folder with weights of a registered net, such as resnet20.")
    ] = None,
    timm: Annotated[str | None, _text("MODEL", "A net of timm by its name; with --weights.")] = None,
    weights: Annotated[Path | None, _path("FILE", "Its weights as safetensors.")] = None,
    onnx: Annotated[Path | None, _path("FILE", "An ONNX file.")] = None,
    oip: Annotated[str | None, _text("URL", "A server of the Open Inference Protocol; with --model.")] = None,
    model: Annotated[str | None, _text("NAME", "The model's name on that server.")] = None,
    version: Annotated[str | None, _text("VERSION", "Its version there.")] = None,
    ensemble: Annotated[str | None, _text("A,B,C", "Teachers that are here, answering together.")] = None,
    merge: Annotated[
        str | None, _text("HOW", "geometric (mean of logits) or arithmetic (mean of probabilities).")
    ] = None,
    hub: Annotated[str | None, _text("ORG/NAME", "A model of the Hugging Face hub, fetched to here.")] = None,
    classes: Annotated[
        str | None, _text("A,B|@FILE", "Class names in the order of the logits, where no file says them.")
    ] = None,
    dataset: Dataset = None,
    claimed_accuracy: Claimed = None,
    precision: Annotated[str | None, _text("TYPE", "float32, bfloat16 or float16.")] = None,
    image: Annotated[
        str | None,
        typer.Option("--input", metavar="HxWxC", help="The images it is asked about.", show_default=False),
    ] = None,
    mean: Annotated[str | None, _text("N,N,N", "A channel, of pixels from 0 to 1.")] = None,
    std: Annotated[str | None, _text("N,N,N", "The same.")] = None,
    resample: Annotated[str | None, _text("HOW", "bilinear or bicubic, to the size of the net.")] = None,
    output: Annotated[str | None, _text("NAME", "Which output of an ONNX file or a server.")] = None,
    layout: Annotated[str | None, _text("LAYOUT", "Of their input: NCHW or NHWC.")] = None,
    answers: Annotated[str | None, _text("WHAT", "logits or probabilities, of the same.")] = None,
    watch: Watch = True,
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a teacher that was trained elsewhere. It is checked before it is taken."""
    order = order_of(
        Sources(folder, architecture, timm, weights, onnx, oip, model, version, ensemble, merge, hub),
        Said(classes, image, mean, std, resample, precision, output, layout, answers),
    )
    spec: dict[str, Any] = {"name": name, "source": order.source}
    spec |= {"dataset": dataset} if dataset is not None else {}
    spec |= {"claimed_accuracy": claimed_accuracy} if claimed_accuracy is not None else {}
    with gateway_of(context, gateway) as client:
        if not as_json:
            console().print(f"taken for {order.words}", markup=False, soft_wrap=True)
        with _sending(order.files, quiet=as_json) as sent:
            job = client.add_teacher(json.dumps(spec).encode(), order.files, sent)
        _conclude(client, job, watch, as_json)


@app.command()
def check(
    context: typer.Context,
    name: Name,
    dataset: Annotated[str, typer.Option(help="Whose classes and images it is tried on.")],
    claimed_accuracy: Claimed = None,
    watch: Watch = True,
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try a teacher on a dataset and print what was found; exit status 1 where a check failed."""
    with gateway_of(context, gateway) as client:
        job = client.check_teacher(
            name, TeacherCheckOrder(dataset=dataset, claimed_accuracy=claimed_accuracy)
        )
        _conclude(client, job, watch, as_json)


def words_of(model: TeacherModel) -> str:
    """Return in a few words what answers."""
    if isinstance(model, Nets):
        nets = f"{model.members} x {model.architecture.architecture}"
        specialists = model.specialists.specialists if model.specialists is not None else ()
        return f"{nets} and {len(specialists)} specialists" if specialists else nets
    if isinstance(model, MixedEnsemble):
        return " + ".join(member.name for member in model.members)
    return model.kind


def _where(model: TeacherModel) -> str:
    if isinstance(model, RemoteModel):
        version = f", version {model.version}" if model.version else ""
        return f"{model.url}, model {model.model}{version}"
    if isinstance(model, OnnxModel):
        return f"input {model.input} ({model.layout}, {model.datatype}), output {model.output}"
    if isinstance(model, MixedEnsemble):
        return f"{model.merge} mean of " + ", ".join(
            f"{one.name} ({one.digest[:12]})" for one in model.members
        )
    return ""


# --- to the end of the job ---------------------------------------------------------------------------------


def _conclude(client: Client, job: JobView, watch: bool, as_json: bool) -> None:
    """Wait for the job and show its list; raises where it failed, or a check did."""
    if not watch:
        emit(job, as_json, job.id)
        return
    if as_json:
        for _ in client.follow(job.id):
            pass
        ended = client.job(job.id)
    else:
        out = console()
        out.print(f"job {job.id}", markup=False)
        ended = watching.watch(client, job, out)
    report = _report_of(client, ended)
    if report is not None:
        emit(report, as_json, findings_table(report), summary(report))
    watching.succeeded(ended)
    if report is not None and failed(report):
        raise CommandFailed(
            "teacher-check-failed",
            f"teacher {report.teacher!r} failed: {', '.join(failed(report))}",
            "The list above says what to do about each.",
        )


def _report_of(client: Client, job: JobView) -> TeacherCheckReport | None:
    """Return the job's list; one that failed before it had asked anything has none."""
    try:
        report = client.report(job.id)
    except GatewayRefused as error:
        if error.code != "report-not-ready":
            raise
        return None
    return report if isinstance(report, TeacherCheckReport) else None


@contextmanager
def _sending(files: dict[str, Path], *, quiet: bool) -> Iterator[Callable[[int], None] | None]:
    """Show how far the files are: a bar on a terminal, a line elsewhere; yields what is told of the bytes."""
    out = console()
    if quiet or not files:
        yield None
        return
    size = size_of(list(files.values()))
    if not out.is_terminal:
        out.print(f"sending {len(files)} file{'s' * (len(files) > 1)}, {size:,} bytes", markup=False)
        yield None
        return
    columns = (TextColumn("sending"), BarColumn(bar_width=28), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=out) as bars:
        task = bars.add_task("", total=size)
        yield lambda count: bars.advance(task, count)
