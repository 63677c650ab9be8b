"""`imago datasets`: list, add."""

from pathlib import Path
from typing import Annotated

import typer

from services.cli.commands.common import GatewayOption, JsonOption, emit, gateway_of, table
from shared.contracts.datasets import DatasetView

app = typer.Typer(help="Look at datasets and add some.", no_args_is_help=True)

_COLUMNS = ("name", "available", "train", "validation", "test", "classes", "image", "description")


@app.command("list")
def list_datasets(context: typer.Context, gateway: GatewayOption = None, as_json: JsonOption = False) -> None:
    """List datasets; a built-in one shows its counts once it was used."""
    with gateway_of(context, gateway) as client:
        datasets = client.datasets()
    emit(datasets, as_json, table(_COLUMNS, [_row(dataset) for dataset in datasets.datasets]))


@app.command()
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What the dataset is to be called.")],
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE…",
            exists=True,
            dir_okay=False,
            help="One zip with a folder a class, the MNIST idx files, or Parquet files.",
        ),
    ],
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Upload a dataset. It is checked on arrival."""
    with gateway_of(context, gateway) as client:
        dataset = client.add_dataset(name, files)
    emit(dataset, as_json, table(_COLUMNS, [_row(dataset)]))


def _row(dataset: DatasetView) -> tuple[str, ...]:
    manifest = dataset.manifest
    if manifest is None:
        counts = ("", "", "", "", "")
    else:
        size = manifest.input
        counts = (
            f"{manifest.counts.train:,}",
            f"{manifest.counts.validation:,}",
            f"{manifest.counts.test:,}",
            str(len(manifest.classes)),
            f"{size.height}×{size.width}×{size.channels}",
        )
    return (dataset.name, "yes" if dataset.available else "no", *counts, dataset.description)
