"""A model behind a server of the Open Inference Protocol becomes a teacher, or is refused with the cause."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.adapters.oip_hosts import AllowedHosts
from shared.contracts.teacher_sources import (
    OipSource,
)
from shared.contracts.teachers import RemoteModel
from shared.errors import (
    OipHostNotAllowed,
    TeacherAnswerInvalid,
    TeacherUnavailable,
)
from tests.support.distilling import SHAPES
from tests.support.importing import Place, of, outcomes
from tests.support.oip_server import Stub, stub_server


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def served(place: Place) -> Iterator[tuple[str, Stub]]:
    with stub_server() as (url, stub):
        place.settings = place.settings.model_copy(update={"oip_hosts": AllowedHosts.of("127.0.0.1")})
        yield url, stub


def oip(url: str, **changes: Any) -> OipSource:
    return OipSource(url=url, model="shapes", classes=SHAPES, mean=(0.25,), std=(0.5,), **changes)


def test_a_model_on_a_server_is_kept_with_what_it_said(place: Place, served: tuple[str, Stub]):
    url, _ = served
    report = place.take(oip(url))
    assert outcomes(report) <= {"ok", "warning"}, report.findings
    teacher = place.store.teachers.current("owl")
    assert isinstance(teacher.model, RemoteModel)
    assert (teacher.model.url, teacher.model.input, teacher.model.output) == (url, "pixels", "scores")
    assert list(teacher.files) == ["probe.safetensors"]


def test_a_server_that_is_not_on_the_list_is_not_asked(place: Place, served: tuple[str, Stub]):
    url, stub = served
    place.settings = place.settings.model_copy(update={"oip_hosts": AllowedHosts.of("elsewhere")})
    with pytest.raises(OipHostNotAllowed):
        place.take(oip(url))
    assert stub.requests == []


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("down", TeacherUnavailable, "does not answer"),
        ("shape", TeacherAnswerInvalid, "should answer"),
        ("nan", TeacherAnswerInvalid, "not finite"),
    ],
)
def test_a_server_at_fault_is_refused_with_the_cause(
    place: Place, served, fault: str, error: type, words: str
):
    url, stub = served
    stub.fault = fault
    with pytest.raises(error, match=words):
        place.take(oip(url))
    assert place.store.teachers.names() == []


def test_a_server_that_fails_in_the_middle_of_the_trial_is_a_failed_check(place: Place, served):
    """After the probe of eight images, asked together and alone."""
    url, stub = served
    answer = stub.infer

    def infer(pixels: np.ndarray) -> np.ndarray:
        if len(stub.requests) > 12:
            stub.fault = "shape"
        return answer(pixels)

    stub.infer = infer
    found = of(place.take(oip(url)), "answers")
    assert found.outcome == "failed"
    assert "should answer" in found.detail
