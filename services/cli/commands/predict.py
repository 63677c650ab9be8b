"""`imago predict`: ask the live student about images."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from services.cli.commands.common import GatewayOption, JsonOption, emit, gateway_of
from shared.contracts.predictions import Prediction, PredictionAnswer

_BAR_WIDTH = 30


def predict(
    context: typer.Context,
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE…", exists=True, dir_okay=False, help="PNG, JPEG or WebP files."),
    ],
    top: Annotated[
        int | None, typer.Option(min=1, help="Most classes to show an image.", show_default=False)
    ] = None,
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the live student about images.

    Probabilities are at T = 1.
    """
    with gateway_of(context, gateway) as client:
        answer = client.predict(images, top=top)
    charts = [
        part
        for path, prediction in zip(images, answer.predictions, strict=True)
        for part in (f"{path}: {prediction.predicted}", chart(prediction))
    ]
    emit(answer, as_json, *charts, footer(answer))


def chart(prediction: Prediction) -> Table:
    """Return the probabilities of one image as bars in text."""
    bars = Table(box=None, show_header=False, pad_edge=False)
    for index, entry in enumerate(prediction.classes):
        width = round(entry.probability * _BAR_WIDTH)
        bars.add_row(
            Text(f"  {entry.name}", style="bold" if index == 0 else ""),
            Text("█" * width + "·" * (_BAR_WIDTH - width), style="green" if index == 0 else "dim"),
            Text(f"{entry.probability:8.4%}"),
        )
    return bars


def footer(answer: PredictionAnswer) -> str:
    """Return who answered, and how long it took inside the gateway."""
    timing = answer.timing
    return (
        f"student {answer.student} at T = {answer.temperature:g}, {timing.total_ms:.2f} ms in the gateway "
        f"(decode {timing.decode_ms:.2f}, model {timing.model_ms:.2f})"
    )
