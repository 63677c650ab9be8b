"""The demo's steps against a gateway in memory, on a real digit."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from services.cli.demo import RECIPES, choose_dataset, run_demo
from services.cli.digit import held_out_digit
from services.cli.errors import CommandFailed, JobNotSucceeded
from shared.client import Client
from shared.contracts.datasets import BUILTIN_DATASETS, DatasetView
from shared.contracts.jobs import JobState
from shared.contracts.specs import DistillationSpec, TeacherSpec
from shared.datasets.builtin import load_builtin
from tests.support.fake_gateway import VERSION, FakeGateway


@pytest.fixture
def gateway() -> FakeGateway:
    return FakeGateway()


@pytest.fixture
def client(gateway: FakeGateway) -> Client:
    return Client("http://gateway.test", transport=gateway.transport())


def test_the_demo_does_the_whole_job_and_says_so(client: Client, gateway: FakeGateway, tmp_path: Path):
    screen = io.StringIO()
    run_demo(client, Console(file=screen, width=160), tmp_path, None)
    text = screen.getvalue()
    teacher, student = (job.spec for job in gateway.jobs.values())
    assert isinstance(teacher, TeacherSpec)
    assert isinstance(student, DistillationSpec)
    assert teacher.architecture.hidden_units == (1200, 1200)
    assert teacher.regularisation.hidden_dropout > 0
    assert teacher.regularisation.jitter_px > 0
    assert student.student.network.hidden_units == (800, 800)
    assert student.objective.temperature == 20
    assert student.teacher == teacher.name
    paths = [request.url.path for request in gateway.seen]
    assert paths.index(f"/v1/students/{VERSION}/promote") < paths.index("/v1/predictions")
    for words in ("97.00%", "95.00%", "96.20%", "BEATS", "+1.20 points", "It says 7", "0.40 ms"):
        assert words in text
    report = tmp_path / "reports" / VERSION / "report.json"
    assert str(report.with_name("report.md")) in text
    assert json.loads(report.read_text())["student_version"] == VERSION
    assert report.with_name("report.md").read_text() == "# Report\n"
    assert report.with_name("curves.png").read_text() == "content of curves.png"


def test_the_demo_ends_where_a_job_fails(client: Client, gateway: FakeGateway, tmp_path: Path):
    gateway.ends_as = JobState.FAILED
    with pytest.raises(JobNotSucceeded, match="the loss is nan"):
        run_demo(client, Console(file=io.StringIO()), tmp_path, None)


def test_the_full_set_is_preferred_where_it_is(client: Client, gateway: FakeGateway):
    assert choose_dataset(client) == "mnist-5k"
    gateway.datasets = tuple(view.model_copy(update={"available": True}) for view in gateway.datasets)
    assert choose_dataset(client) == "mnist"


def test_no_dataset_at_all_is_told(client: Client, gateway: FakeGateway):
    gateway.datasets = (DatasetView(name="mine", builtin=False, available=True, description=""),)
    with pytest.raises(CommandFailed, match="mnist-5k"):
        choose_dataset(client)


def test_the_digit_is_of_the_test_split_and_survives_as_a_png():
    digit = held_out_digit("mnist-5k", None)
    splits, classes, _source = load_builtin("mnist-5k", None)
    test = splits["test"]
    assert test.labels is not None
    np.testing.assert_array_equal(digit.pixels, test.images[digit.index, :, :, 0])
    assert digit.label == classes[int(test.labels[digit.index])]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(digit.png()))), digit.pixels)
    assert not (splits["train"].images == digit.pixels[..., None]).all((1, 2, 3)).any()


def test_a_dataset_whose_files_are_missing_is_told():
    with pytest.raises(CommandFailed) as failed:
        held_out_digit("mnist", None)
    assert failed.value.code == "dataset-not-found"


def test_every_recipe_is_for_a_dataset_that_is_built_in():
    assert set(RECIPES) <= set(BUILTIN_DATASETS)
