"""The cascade between processes: a real gateway, and a real teacher that answers, stands still and dies."""

import io
import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from shared.artefacts.store import ArtefactStore
from shared.artefacts.traffic import TrafficFile
from shared.contracts.teachers import TeacherDescription
from shared.contracts.traffic import Cascade, TrafficPolicy
from tests.support.gateway_process import GatewayProcess
from tests.support.redis_server import free_port
from tests.support.student_bundles import card, mlp_onnx
from tests.support.teachers import (
    CLASSES,
    INPUT,
    expected_logits,
    publish,
    random_images,
    random_tensors,
    softmax,
    start_teacher,
    stop,
)

pytestmark = pytest.mark.integration

PATH = "/v1/predictions"
STUDENT_CLASSES = CLASSES[::-1]
"""In another order than the teacher's: what it says must be sorted by name."""
IMAGES = random_images(12, seed=3)
NEVER = 1e-9
"""A threshold below which no student of four classes is."""


def png(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image[:, :, 0]).save(out, "PNG")
    return out.getvalue()


FILES = [png(image) for image in IMAGES]


def set_policy(state_dir: Path, threshold: float) -> None:
    """Write it as the gateway does; the deadline is for machines that have much else to do."""
    policy = TrafficPolicy(cascade=Cascade(threshold=threshold, deadline_ms=60_000))
    TrafficFile(state_dir / "store" / "students").write(policy)


def publish_student(store: ArtefactStore, teacher: TeacherDescription) -> None:
    model = mlp_onnx(INPUT, classes=len(CLASSES))
    described = card("shapes-1", model, classes=STUDENT_CLASSES, image=INPUT).model_copy(
        update={"teacher": teacher.name, "teacher_digest": teacher.digest}
    )

    def build(directory: Path) -> None:
        (directory / "model.onnx").write_bytes(model)
        (directory / "card.json").write_text(described.model_dump_json())

    store.students.publish("shapes-1", build)
    store.students.promote("shapes-1")


@pytest.fixture(scope="module")
def teacher(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple["subprocess.Popen[bytes]", str, Path]]:
    state_dir = tmp_path_factory.mktemp("state")
    publish_student(ArtefactStore(state_dir / "store"), publish(state_dir / "store"))
    set_policy(state_dir, NEVER)
    process, url = start_teacher(state_dir)
    yield process, url, state_dir
    stop(process)


@pytest.fixture(scope="module")
def client(teacher: tuple["subprocess.Popen[bytes]", str, Path]) -> Iterator[httpx.Client]:
    _, url, state_dir = teacher
    # Redis is down: neither predictions nor the cascade need it.
    gateway = GatewayProcess(state_dir, f"redis://127.0.0.1:{free_port()}/0", TEACHER_URL=url).start()
    with httpx.Client(base_url=gateway.url, timeout=30) as client:
        yield client
    gateway.stop()


def ask(client: httpx.Client, image: int, *, deadline_ms: int = 120_000, **query: Any) -> dict[str, Any]:
    headers = {"Content-Type": "image/png", "X-Deadline-Ms": str(deadline_ms)}
    answer = client.post(PATH, params=query, content=FILES[image], headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["X-Student-Version"] == "shapes-1"
    (prediction,) = answer.json()["predictions"]
    return dict(prediction)


def by(prediction: dict[str, Any]) -> str:
    return str(prediction["answered_by"])


def probabilities(prediction: dict[str, Any]) -> list[float]:
    named = {one["name"]: one["probability"] for one in prediction["classes"]}
    assert (
        prediction["predicted"]
        == prediction["classes"][0]["name"]
        == max(named, key=lambda name: named[name])
    )
    return [named[name] for name in CLASSES]


def of_teacher(images: np.ndarray) -> np.ndarray:
    return softmax(expected_logits(random_tensors(), images, temperature=1.0))


def escalated(client: httpx.Client, outcome: str) -> float:
    found = re.findall(
        rf'^imago_escalated_images_total{{outcome="{outcome}",student="shapes-1"}} (\S+)$',
        client.get("/metrics").text,
        re.MULTILINE,
    )
    return sum(map(float, found))


def wait_until(holds: Any, timeout_s: float = 60.0) -> None:
    ends = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_images_below_the_threshold_get_the_teachers_answer_and_say_so(client: httpx.Client):
    alone = [ask(client, image, cascade="off") for image in range(len(FILES))]
    assert {by(one) for one in alone} == {"student"}
    sure = [one["classes"][0]["probability"] for one in alone]
    threshold = float(np.median(sure))

    for image, (own, confidence) in enumerate(zip(alone, sure, strict=True)):
        found = ask(client, image, cascade=threshold)
        if confidence < threshold:
            assert by(found) == "teacher"
            np.testing.assert_allclose(
                probabilities(found), of_teacher(IMAGES[image : image + 1])[0], atol=1e-4
            )
        else:
            assert found == own


def test_the_policy_decides_where_the_request_does_not(client: httpx.Client, teacher):
    _, _, state_dir = teacher
    own = ask(client, 0)
    assert by(own) == "student"
    set_policy(state_dir, 1.0)
    try:
        wait_until(lambda: by(ask(client, 0)) == "teacher")
        assert ask(client, 0, cascade="off") == own
    finally:
        set_policy(state_dir, NEVER)
    wait_until(lambda: by(ask(client, 0)) == "student")


def test_of_several_images_in_a_form_each_has_its_own_answer(client: httpx.Client):
    sure = [ask(client, image, cascade="off")["classes"][0]["probability"] for image in range(len(FILES))]
    threshold = float(np.median(sure))
    form = [("images", (f"{number}.png", file, "image/png")) for number, file in enumerate(FILES)]
    answer = client.post(PATH, params={"cascade": threshold}, files=form)
    predictions = answer.json()["predictions"]
    assert [one["file"] for one in predictions] == [f"{number}.png" for number in range(len(FILES))]
    assert [by(one) for one in predictions] == [
        "teacher" if confidence < threshold else "student" for confidence in sure
    ]
    expected = of_teacher(IMAGES)
    for one, row in zip(predictions, expected, strict=True):
        if by(one) == "teacher":
            np.testing.assert_allclose(probabilities(one), row, atol=1e-4)


# The last one: afterwards there is no teacher.
def test_a_teacher_that_stands_still_or_dies_costs_no_answer(client: httpx.Client, teacher):
    process, _, _ = teacher
    own = [ask(client, image, cascade="off") for image in range(len(FILES))]
    late, refused = escalated(client, "late"), escalated(client, "refused")

    process.send_signal(signal.SIGSTOP)
    try:
        assert ask(client, 1, deadline_ms=1000, cascade=1) == own[1]
        assert escalated(client, "late") == late + 1
    finally:
        process.send_signal(signal.SIGCONT)
    wait_until(lambda: by(ask(client, 1, cascade=1)) == "teacher")

    process.kill()
    process.wait()
    for image in [*range(len(FILES))] * 2:
        assert ask(client, image, cascade=1) == own[image]
    wait_until(lambda: escalated(client, "refused") > refused)
    assert json.loads(client.get("/health/ready").content)["ready"] is True
