"""Answers: which form, and the numbers in it."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest
from safetensors.numpy import load

from services.teacher.answers import Answer, chosen
from shared.contracts.architectures import Mlp
from shared.contracts.teachers import Nets, SoftTargets, TeacherDescription
from shared.errors import NotAcceptable, TeacherAnswerInvalid, TemperatureTooLow
from tests.support.teachers import CLASSES, PREPROCESSING, softmax

SAFETENSORS = "application/vnd.safetensors"
LOGITS = np.array([[3.0, -1.0, -1.5, -0.5], [0.1, 0.2, -0.4, 0.1]], np.float32)
TEACHER = TeacherDescription(
    name="shapes",
    digest="ab" * 32,
    model=Nets(architecture=Mlp(hidden_units=(16,))),
    classes=CLASSES,
    preprocessing=PREPROCESSING,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)


def answer(**changes) -> Answer:
    fields = {
        "teacher": TEACHER,
        "temperature": 4.0,
        "logits": LOGITS,
        "probabilities": True,
        "dtype": "float32",
    }
    return Answer(**fields | changes)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "application/json"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        (SAFETENSORS, SAFETENSORS),
        ("application/json, " + SAFETENSORS, "application/json"),
        ("application/json;q=0.5, " + SAFETENSORS, SAFETENSORS),
        ("application/json;q=0, */*", SAFETENSORS),
        ("text/html, */*;q=0.1", "application/json"),
        ("Application/VND.safetensors", SAFETENSORS),
    ],
)
def test_accept_decides_the_form_of_the_answer(accept, expected):
    assert chosen(accept) == expected


@pytest.mark.parametrize("accept", ["text/html", "image/*", "application/json;q=0", "application/json;q=x"])
def test_what_cannot_be_given_is_refused(accept):
    with pytest.raises(NotAcceptable):
        chosen(accept)


def test_json_is_the_contract_and_keeps_every_bit_of_the_logits():
    found = SoftTargets.model_validate_json(answer().encoded("application/json"))
    np.testing.assert_array_equal(np.array(found.logits, np.float32), LOGITS)
    assert (found.teacher, found.digest, found.temperature, found.classes) == (
        "shapes",
        "ab" * 32,
        4.0,
        CLASSES,
    )


@pytest.mark.parametrize("form", ["application/json", SAFETENSORS])
def test_probabilities_are_the_softmax_of_the_softened_logits(form):
    body = answer().encoded(form)
    found = load(body)["probabilities"] if form == SAFETENSORS else json.loads(body)["probabilities"]
    np.testing.assert_allclose(found, softmax(LOGITS.astype(np.float64)), atol=1e-7)


def test_probabilities_are_left_out_unless_they_are_asked_for():
    assert set(load(answer(probabilities=False).encoded(SAFETENSORS))) == {"logits"}
    assert json.loads(answer(probabilities=False).encoded("application/json"))["probabilities"] is None


def test_safetensors_tell_in_their_metadata_what_the_numbers_are():
    body = answer().encoded(SAFETENSORS)
    header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    assert header["__metadata__"] == {
        "teacher": "shapes",
        "digest": "ab" * 32,
        "temperature": "4.0",
        "classes": json.dumps(CLASSES),
    }


def test_float16_is_given_where_it_is_asked_for():
    found = load(answer(dtype="float16").encoded(SAFETENSORS))
    assert found["logits"].dtype == np.float16
    np.testing.assert_array_equal(found["logits"], LOGITS.astype(np.float16))


@pytest.mark.parametrize("form", ["application/json", SAFETENSORS])
@pytest.mark.parametrize(("logits", "dtype"), [(np.inf, "float32"), (1e5, "float16")])
def test_numbers_that_do_not_fit_are_refused_and_never_sent(form, logits, dtype):
    with pytest.raises(TemperatureTooLow, match=dtype):
        answer(logits=np.full((1, 4), logits, np.float32), dtype=dtype).encoded(form)


@pytest.mark.parametrize("form", ["application/json", SAFETENSORS])
def test_rows_of_which_the_teacher_says_no_finite_numbers_are_named(form):
    logits = np.zeros((40, 4), np.float32)
    logits[[3, 17]] = np.nan
    with pytest.raises(TeacherAnswerInvalid, match=r"rows 3, 17 of 40"):
        answer(logits=logits, dtype="float16").encoded(form)
    logits[20:] = np.nan
    with pytest.raises(TeacherAnswerInvalid, match=r"rows 3, 17, 20, 21, 22, 23, 24, 25 and 14 more of 40"):
        answer(logits=logits).encoded(form)


@pytest.mark.parametrize("classes", range(1, 9))
def test_safetensors_of_any_width_begin_their_numbers_where_their_size_divides(classes):
    logits = np.ones((3, classes), np.float32)
    body = answer(logits=logits).encoded(SAFETENSORS)
    assert int.from_bytes(body[:8], "little") % 8 == 0
    np.testing.assert_array_equal(load(body)["logits"], logits)
