"""What a built-in dataset is to the others: how its files are found, and how they are read."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from shared.artefacts.datasets import Split

Files = tuple[Path, ...]
Read = tuple[dict[str, Split], tuple[str, ...]]
"""Splits, and classes in the order of the labels."""


class Builtin(NamedTuple):
    """One dataset that every installation knows by name."""

    find: Callable[[Path | None], Files | None]
    """Takes the data directory of the installation; None unless all files are there."""
    read: Callable[[Files], Read]
    """Takes what was found; raises InvalidDataset where a file is broken."""


def in_data_dir(*names: str) -> Callable[[Path | None], Files | None]:
    """Return how files are found that lie at these places of the data directory, as they are or gzipped."""

    def find(data_dir: Path | None) -> Files | None:
        if data_dir is None:
            return None
        found = tuple(path for name in names if (path := _plain_or_gzip(data_dir / name)) is not None)
        return found if len(found) == len(names) else None

    return find


def _plain_or_gzip(path: Path) -> Path | None:
    return next((p for p in (path, path.with_name(f"{path.name}.gz")) if p.is_file()), None)
