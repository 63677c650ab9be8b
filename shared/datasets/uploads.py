"""Reads what users send as a dataset: a zip with a folder a class, idx files, or Parquet."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from shared.artefacts.datasets import Split
from shared.datasets.assemble import LARGEST_SIDE, Size, assemble
from shared.datasets.folders import ZIP_MAGIC, read_zip
from shared.datasets.idx import GZIP_MAGIC
from shared.datasets.idx_upload import read_idx_files
from shared.datasets.limits import UploadLimits
from shared.datasets.splits import Loaded, complete
from shared.errors import InvalidDataset, LabelsMissing

_PARQUET_MAGIC = b"PAR1"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def read_upload(
    files: Sequence[Path],
    names: Sequence[str],
    limits: UploadLimits | None = None,
    *,
    size: Size | None = None,
    labels_required: bool = False,
) -> Loaded:
    """Read an upload of one zip, or of idx files, or of Parquet files; their first bytes say which it is.

    Classes are ordered by name, or by value where all names are whole numbers; Parquet may state its own.
    Validation and test are drawn from the training images where the upload does not bring them: a tenth each,
    class by class, the same rows each time (`splits.complete`).

    Args:
        files: where the files lie.
        names: under which they were sent; they tell the splits of idx and Parquet files, and name errors.
        limits: of bytes, pixels and members; the usual ones if None.
        size: height and width to which all images are resized. Without it all must have the same size.
        labels_required: refuse training images without labels.

    Returns:
        Splits, classes, and in words where the images come from.

    Raises:
        InvalidDataset: the files are no dataset; the message says which file and why.
        InvalidImage: an image is broken; the error names its file.
        ImageTooLarge: an image is over a limit; the error names its file.
        LabelsMissing: `labels_required`, and there are none.
    """
    limits = limits or UploadLimits()
    if len(files) != len(names) or not files:
        raise InvalidDataset("no files were sent" if not files else "each file needs a name")
    if size is not None and not all(1 <= side <= LARGEST_SIDE for side in size):
        raise InvalidDataset(f"a size is 1 to {LARGEST_SIDE} pixels a side, not {size[0]} x {size[1]}")
    names = [_CONTROL.sub("?", name)[:200] for name in names]
    pairs = list(zip(files, names, strict=True))
    kinds = {_kind(path, name) for path, name in pairs}
    if len(kinds) > 1:
        raise InvalidDataset(f"the files are of different kinds: {', '.join(sorted(kinds))}")
    kind = kinds.pop()
    if kind == "zip":
        if len(files) > 1:
            raise InvalidDataset(f"send one zip, not {len(files)}")
        splits, classes = assemble(read_zip(files[0], names[0], limits), limits, size=size)
    elif kind == "idx":
        splits, classes = read_idx_files(pairs, limits, size=size)
    else:
        # Loaded here: pyarrow takes longer to load than a small zip takes to read.
        from shared.datasets.parquet import ParquetFiles

        parquet = ParquetFiles(pairs, limits)
        splits, classes = assemble(parquet.examples(), limits, size=size, classes=parquet.classes)
    _check_splits(splits, names, labels_required=labels_required)
    listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return complete(splits), classes, f"{kind} upload: {listed}"


def _kind(path: Path, name: str) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    if start in ZIP_MAGIC:
        return "zip"
    if start == _PARQUET_MAGIC:
        return "parquet"
    if start[:2] == GZIP_MAGIC or (len(start) == 4 and start[:2] == b"\0\0"):
        return "idx"
    raise InvalidDataset(f"{name} is neither a zip nor an idx nor a Parquet file")


def _check_splits(splits: Mapping[str, Split], names: Sequence[str], *, labels_required: bool) -> None:
    if "train" not in splits:
        raise InvalidDataset(f"there are no training images, only {' and '.join(sorted(splits))} images")
    for name in ("validation", "test"):
        if name in splits and splits[name].labels is None:
            raise InvalidDataset(f"the {name} images have no labels", remedy="Label them or leave them out.")
    if labels_required and splits["train"].labels is None:
        raise LabelsMissing(names[0], "this upload")
