"""`imago teachers`: list."""

import typer

from services.cli.commands.common import GatewayOption, JsonOption, emit, gateway_of, table
from shared.contracts.teachers import MixedEnsemble, Nets, TeacherModel

app = typer.Typer(help="Look at teachers.", no_args_is_help=True)


@app.callback()
def teachers() -> None:
    """Look at teachers."""


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
    columns = ("name", "digest", "classes", "image", "model", "test accuracy", "created (UTC)")
    emit(held, as_json, table(columns, rows))


def words_of(model: TeacherModel) -> str:
    """Return in a few words what answers."""
    if isinstance(model, Nets):
        nets = f"{model.members} x {model.architecture.architecture}"
        specialists = model.specialists.specialists if model.specialists is not None else ()
        return f"{nets} and {len(specialists)} specialists" if specialists else nets
    if isinstance(model, MixedEnsemble):
        return " + ".join(member.name for member in model.members)
    return model.kind
