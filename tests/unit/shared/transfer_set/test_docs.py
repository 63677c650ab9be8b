"""docs/transfer-set.md: a stranger reads the format with what the page shows."""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.artefacts.tensors import read_tensors
from shared.contracts.training import TransferSetSpec
from shared.transfer_set.format import columns_of, parameter_columns
from shared.transfer_set.reader import TransferSet
from shared.transfer_set.views import PARAMETER_COLUMNS, apply_view
from shared.transfer_set.writer import TransferSetWriter
from tests.unit.shared.transfer_set.conftest import LinearTeacher, make_inputs, make_writer, write_all

PAGE = (Path(__file__).parents[4] / "docs" / "transfer-set.md").read_text()


def page_code() -> dict[str, Any]:
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
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


SPARSE = make_inputs().spec.model_copy(update={"top_k": 3})
ALL_OPTIONS = make_inputs().spec.model_copy(
    update={"crop_scale": 0.5, "cutout_px": 4, "brightness": 0.2, "contrast": 0.2}
)


@pytest.mark.parametrize("spec", [SPARSE, ALL_OPTIONS, TransferSetSpec()])
def test_the_tables_of_tensors_are_those_of_the_files(
    tmp_path: Path, digits: np.ndarray, teacher: LinearTeacher, spec: TransferSetSpec
) -> None:
    writer = make_writer(tmp_path, make_inputs(spec=spec), digits, shard_rows=64)
    write_all(writer, teacher)
    columns, metadata = read_tensors(tmp_path / "shard-00000.safetensors")
    left_out = set(PARAMETER_COLUMNS) - set(parameter_columns(spec))
    dense, sparse = (
        list(re.findall(r"^\| `(\w+)` \| (\w+), (n(?: x \w+)?) \|", table, re.MULTILINE))
        for table in PAGE.split("| tensor | type, shape | meaning |")[1:]
    )
    rows = [row for row in dense if row[0] not in left_out]
    if writer.inputs.kept is not None:
        rows = rows[:-1] + sparse
    assert [name for name, _, _ in rows] == list(columns_of(writer.inputs))
    assert columns.keys() == {name for name, _, _ in rows}
    for name, kind, shape in rows:
        sizes = {"n": 64, "2": 2, "4": 4, "16": 16, "classes": 10, "k": 3, "temperatures": 5}
        assert columns[name].dtype.name == kind
        assert columns[name].shape == tuple(sizes[size] for size in shape.split(" x "))
    content = hashlib.sha256(b"".join(columns[name].tobytes() for name, _, _ in rows)).hexdigest()
    assert metadata["content"] == content


def test_the_code_on_the_page_reads_a_set_of_the_largest_logits(
    tmp_path: Path, digits: np.ndarray, teacher: LinearTeacher
) -> None:
    write_all(make_writer(tmp_path, make_inputs(spec=SPARSE), digits, shard_rows=64), teacher)
    _, columns = page_code()["read"](tmp_path)
    np.testing.assert_array_equal(columns["logits"], TransferSet.open(tmp_path).logits)
