"""docs/transfer-set.md: a stranger reads the format with what the page shows."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from shared.artefacts.tensors import read_tensors
from shared.transfer_set.format import COLUMNS
from shared.transfer_set.reader import TransferSet
from shared.transfer_set.views import apply_view
from shared.transfer_set.writer import TransferSetWriter
from tests.unit.shared.transfer_set.conftest import LinearTeacher, write_all

PAGE = (Path(__file__).parents[4] / "docs" / "transfer-set.md").read_text()


def page_code() -> dict[str, Any]:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    return names


def test_the_code_on_the_page_reads_a_transfer_set(writer: TransferSetWriter, teacher: LinearTeacher) -> None:
    write_all(writer, teacher)
    code = page_code()
    manifest, columns = code["read"](writer.directory)
    assert manifest["digest"] == writer.directory.name
    ours = TransferSet.open(writer.directory)
    np.testing.assert_array_equal(columns["logits"], ours.logits)
    np.testing.assert_array_equal(columns["row"], np.tile(ours.rows, (3, 1)))
    soft_targets = code["soft_targets"](columns["logits"], 20.0)
    np.testing.assert_allclose(soft_targets.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(soft_targets.argmax(axis=-1), columns["logits"].argmax(axis=-1))


def test_the_code_on_the_page_makes_the_views(
    writer: TransferSetWriter, teacher: LinearTeacher, digits: np.ndarray
) -> None:
    write_all(writer, teacher)
    code = page_code()
    _, columns = code["read"](writer.directory)
    for view in range(3):
        ours = apply_view(digits, columns["shift"][view], columns["flip"][view])
        for image in range(0, 100, 9):
            row = columns["row"][view, image]
            seen = code["view_of"](digits[row], columns["flip"][view, image], columns["shift"][view, image])
            np.testing.assert_array_equal(seen, ours[image])


def test_the_table_of_tensors_is_that_of_the_files(writer: TransferSetWriter, teacher: LinearTeacher) -> None:
    write_all(writer, teacher)
    columns, _ = read_tensors(writer.directory / "shard-00000.safetensors")
    rows = re.findall(r"^\| `(\w+)` \| (\w+), (n(?: x \w+)?) \|", PAGE, re.MULTILINE)
    assert [name for name, _, _ in rows] == list(COLUMNS)
    for name, kind, shape in rows:
        sizes = {"n": 64, "2": 2, "16": 16, "classes": 10}
        assert columns[name].dtype.name == kind
        assert columns[name].shape == tuple(sizes[size] for size in shape.split(" x "))
