"""A teacher behind a server: the probe stands for its weights."""

import gc

import numpy as np
import pytest
import torch

from shared.artefacts.tensors import tensors_of_bytes, tensors_to_bytes
from shared.contracts.images import ImageInput
from shared.contracts.teachers import RemoteModel
from shared.errors import Corrupt, TeacherAnswerInvalid, TeacherChanged, TeacherUnavailable
from shared.models.probes import Probe, make_probe, probe_images, read_probe
from shared.models.remote import RemoteTeacher
from tests.support.any_teachers import described
from tests.support.onnx_graphs import linear_logits, linear_weights
from tests.support.teachers import INPUT, random_images

MODEL = RemoteModel(url="http://models:8000", model="shapes", input="pixels", output="scores")
IMAGES = random_images(5)


class Linear:
    """A server that classifies as the formula says; `bias` is what may change."""

    most_rows = 8

    def __init__(self, answers: str = "logits") -> None:
        self.weight, self.bias = linear_weights()
        self.asked: list[int] = []
        self.down = self.closed = False
        self.answers = answers

    def infer(self, batch: np.ndarray) -> np.ndarray:
        if self.down:
            raise TeacherUnavailable("it is down")
        self.asked.append(len(batch))
        logits = batch.reshape(len(batch), -1) @ self.weight + self.bias
        if self.answers == "probabilities":
            powers = np.exp(logits - logits.max(-1, keepdims=True))
            logits = powers / powers.sum(-1, keepdims=True)
        return logits.astype(np.float32)

    def close(self) -> None:
        self.closed = True


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def logits_of(images: np.ndarray) -> np.ndarray:
    return linear_logits(images, *linear_weights(), 0.25, 0.5).astype(np.float32)


def probe() -> Probe:
    images = probe_images(INPUT)
    return Probe(images, logits_of(images))


def teacher(server: Linear, clock: Clock | None = None, **model) -> RemoteTeacher:
    found = described(MODEL.model_copy(update=model), name="far")
    return RemoteTeacher(found, server, probe(), probe_every_s=60.0, clock=clock or Clock())


def test_it_answers_as_the_server_does():
    server = Linear()
    found = teacher(server).softened_logits(torch.from_numpy(IMAGES), temperature=2.0)
    logits = linear_logits(IMAGES, *linear_weights(), 0.25, 0.5) / 2
    np.testing.assert_allclose(found.numpy(), logits - logits.mean(-1, keepdims=True), atol=1e-5)


def test_the_server_is_compared_with_the_probe_before_the_first_answer_and_then_from_time_to_time():
    server, clock = Linear(), Clock()
    found = teacher(server, clock)
    for now, asked in [(100, [8, 5]), (159, [5]), (160, [8, 5]), (219, [5]), (500, [8, 5])]:
        clock.now = now
        server.asked.clear()
        found.member_logits(torch.from_numpy(IMAGES))
        assert server.asked == asked, now


def test_a_server_that_answers_otherwise_is_another_teacher_until_it_answers_as_before():
    server, clock = Linear(), Clock()
    found = teacher(server, clock)
    found.member_logits(torch.from_numpy(IMAGES))
    server.bias = server.bias + np.array([0.2, 0, 0, 0], np.float32)
    clock.now += 60
    for _ in range(2):  # also at once: nothing is answered because a comparison was a moment ago
        with pytest.raises(TeacherChanged, match=r"'far' changed: its server .* by .* times"):
            found.member_logits(torch.from_numpy(IMAGES))
    server.bias = linear_weights()[1]
    assert found.member_logits(torch.from_numpy(IMAGES)).shape == (1, 5, 4)


def test_a_server_that_is_down_has_not_changed():
    server, clock = Linear(), Clock()
    found = teacher(server, clock)
    server.down = True
    with pytest.raises(TeacherUnavailable):
        found.member_logits(torch.from_numpy(IMAGES))
    server.down = False
    found.member_logits(torch.from_numpy(IMAGES))
    assert server.asked[0] == 8


def test_connections_are_closed_when_nobody_uses_the_teacher_any_more():
    server = Linear()
    found = teacher(server)
    del found
    gc.collect()
    assert server.closed


@pytest.mark.parametrize("answers", ["logits", "probabilities"])
def test_rounding_to_float16_is_no_change_and_another_net_is(answers):
    exact = probe()
    rounded = exact.logits.astype(np.float16).astype(np.float32)
    assert exact.difference(exact.logits, answers) == 0
    assert exact.difference(exact.logits + 7, answers) < 0.1  # a constant is no part of softmax
    assert 0 < exact.difference(rounded, answers) < 1
    moved = exact.logits + np.random.default_rng(0).normal(0, 0.1, exact.logits.shape).astype(np.float32)
    assert exact.difference(moved, answers) > 1
    assert exact.difference(exact.logits[:, ::-1].copy(), answers) > 1
    assert exact.difference(np.full_like(exact.logits, np.nan), answers) == np.inf
    assert exact.difference(exact.logits[:, :3], answers) == np.inf


def test_a_probability_that_is_rounding_is_not_compared():
    images = probe_images(INPUT)
    logits = np.zeros((8, 3), np.float32)
    logits[:, 2] = -60.0  # log of a probability of 1e-26
    other = logits.copy()
    other[:, 2] = -87.0  # the same, rounded to 0 and taken as the smallest normal number
    assert Probe(images, logits).difference(other, "probabilities") < 1e-3
    assert Probe(images, logits).difference(other, "logits") > 1


def test_a_probe_shows_black_white_and_noise():
    images = probe_images(ImageInput(height=3, width=4, channels=3))
    assert images.shape == (8, 3, 4, 3)
    assert (images[0].max(), images[1].min()) == (0, 255)
    assert len({image.tobytes() for image in images}) == 8


def test_a_probe_is_made_stored_and_read(tmp_path):
    path = tmp_path / "probe.safetensors"
    path.write_bytes(make_probe(logits_of, INPUT))
    assert tensors_of_bytes(path.read_bytes()).keys() == {"images", "logits"}
    read = read_probe(path)
    np.testing.assert_array_equal(read.images, probe_images(INPUT))
    np.testing.assert_array_equal(read.logits, logits_of(probe_images(INPUT)))


def test_no_probe_is_made_of_logits_that_are_not_finite():
    def broken(images: np.ndarray) -> np.ndarray:
        logits = logits_of(images)
        logits[images.reshape(len(images), -1).min(-1) == 255] = np.nan
        return logits

    with pytest.raises(TeacherAnswerInvalid, match=r"not finite: images 1$"):
        make_probe(broken, INPUT)


def test_no_probe_is_made_of_a_model_that_says_something_else_each_time():
    generator = np.random.default_rng(0)

    def dropping_out(images: np.ndarray) -> np.ndarray:
        return logits_of(images) + generator.normal(0, 0.3, (len(images), 4)).astype(np.float32)

    with pytest.raises(TeacherAnswerInvalid, match="differ from one call to the next"):
        make_probe(dropping_out, INPUT)


@pytest.mark.parametrize(
    "tensors",
    [
        {"images": np.zeros((8, 6, 5, 1), np.uint8)},
        {"images": np.zeros((8, 6, 5, 1), np.float32), "logits": np.zeros((8, 4), np.float32)},
        {"images": np.zeros((8, 6, 5, 1), np.uint8), "logits": np.zeros((7, 4), np.float32)},
        {"images": np.zeros((8, 30), np.uint8), "logits": np.zeros((8, 4), np.float32)},
    ],
)
def test_a_file_that_is_no_probe_is_corrupt(tmp_path, tensors):
    path = tmp_path / "probe.safetensors"
    path.write_bytes(tensors_to_bytes(tensors))
    with pytest.raises(Corrupt):
        read_probe(path)
