"""The cascade on MNIST: `python -m benchmarks.cascade --data-dir DIR [--url http://127.0.0.1:8080]`.

Against a stack that runs, such as `IMAGO_DATA_DIR=DIR imago up`. Trains a teacher, distils a small student
from it, promotes the student, and posts all 10,000 test images once without the cascade and once for each
share to escalate, which is set as traffic policy. What comes back is compared with the labels. In the end
the policy is empty. `--student VERSION` measures one that is there already.
"""

import argparse
import http.client
import io
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
from PIL import Image

from shared.client import Client
from shared.contracts.architectures import Mlp
from shared.contracts.cascade import CascadeCurve
from shared.contracts.reports import DistillationReport
from shared.contracts.specs import DistillationSpec, JobSpec, TeacherSpec
from shared.contracts.students import StudentCard
from shared.contracts.traffic import Cascade, TrafficPolicy
from shared.contracts.training import Budget, Objective, Regularisation, StudentSpec
from shared.datasets.idx import read_idx

_DATASET = "mnist"
_TEACHER = TeacherSpec(
    name="cascade-teacher",
    dataset=_DATASET,
    architecture=Mlp(hidden_units=(800, 800)),
    # Without dropout a few epochs are enough; shifted images keep it from learning them by heart.
    regularisation=Regularisation(input_dropout=0.0, hidden_dropout=0.0, max_norm=None, jitter_px=2),
    budget=Budget(epochs=8, batch_size=512, learning_rate=1e-3),
)
_STUDENT = DistillationSpec(
    name="cascade-student",
    teacher=_TEACHER.name,
    dataset=_DATASET,
    student=StudentSpec(network=Mlp(hidden_units=(32,))),
    objective=Objective(temperature=4.0),
    budget=Budget(epochs=10, batch_size=256),
    seeds=(0, 1),
)
_SHARES = (0.01, 0.05, 0.1)
_FOLLOWED_S = 1.0
"""Within which every process of the gateway follows a policy."""
_WARM_UP = 200
"""Images posted before each run: connections, and what is loaded for the first question."""


@dataclass(frozen=True)
class Answer:
    """One posted image."""

    predicted: str
    confidence: float
    by_teacher: bool
    ms: float


def main() -> None:
    """Train where nothing is given, measure, print both tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="has mnist/t10k-images-idx3-ubyte.gz")
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--student", help="a version that is there already")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--deadline-ms", type=int, default=250, help="that the teacher may take")
    given = parser.parse_args()
    with Client(given.url) as client:
        version = given.student or _distilled(client)
        client.promote(version)
        card = client.student(version)
    assert card.cascade is not None, "a distilled student has a curve"
    images, labels = _test_split(given.data_dir)
    print(f"{card.version}: {card.parameters:,} parameters; teacher {card.teacher_parameters:,}\n")
    print(_curve(card.cascade), "\n")
    print("| share set | escalated | of these in time | accuracy | p50 | p99 | p50, by the teacher | p99 |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    alone = _posted(given.url, images, given.connections)
    print(_row("none", [], alone, labels), flush=True)
    for share in _SHARES:
        _set_policy(given.url, TrafficPolicy(cascade=Cascade(share=share, deadline_ms=given.deadline_ms)))
        answers = _posted(given.url, images, given.connections)
        unsure = [one.confidence < _threshold(card, share) for one in alone]
        print(_row(f"{share:.0%}", unsure, answers, labels), flush=True)
    _set_policy(given.url, TrafficPolicy())


def _distilled(client: Client) -> str:
    for spec in (_TEACHER, _STUDENT):
        job = _run(client, spec)
    report = client.report(job)
    assert isinstance(report, DistillationReport), "of the second job"
    return report.student_version


def _run(client: Client, spec: JobSpec) -> str:
    began = time.monotonic()
    job = client.wait(client.submit(spec).id)
    print(f"job {job.id}, {spec.kind}: {job.state} after {time.monotonic() - began:.0f} s", flush=True)
    assert job.failure is None, job.failure
    return job.id


def _test_split(data_dir: Path) -> tuple[list[bytes], list[str]]:
    images = read_idx(data_dir / "mnist" / "t10k-images-idx3-ubyte.gz")
    labels = read_idx(data_dir / "mnist" / "t10k-labels-idx1-ubyte.gz")
    return [_png(image) for image in images], [str(label) for label in labels]


def _png(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def _threshold(card: StudentCard, share: float) -> float:
    assert card.cascade is not None
    return next(one.threshold for one in card.cascade.points if one.chosen_share == share)


def _set_policy(url: str, policy: TrafficPolicy) -> None:
    httpx.put(f"{url}/v1/traffic", json=policy.model_dump(mode="json"), timeout=60).raise_for_status()
    time.sleep(_FOLLOWED_S)


def _posted(url: str, images: Sequence[bytes], connections: int) -> list[Answer]:
    """Return the answer to each image, in order, each connection asking for its share without a pause."""

    def post(connection: http.client.HTTPConnection, image: bytes) -> Answer:
        began = time.perf_counter()
        connection.request("POST", "/v1/predictions?top=1", image, {"Content-Type": "image/png"})
        answer = connection.getresponse()
        content = answer.read()
        ms = (time.perf_counter() - began) * 1000
        assert answer.status == 200, content
        (one,) = json.loads(content)["predictions"]
        (best,) = one["classes"]
        return Answer(best["name"], best["probability"], one["answered_by"] == "teacher", ms)

    def run(place: int) -> list[Answer]:
        connection = http.client.HTTPConnection(urlsplit(url).netloc)
        for image in images[:_WARM_UP]:
            post(connection, image)
        found = [post(connection, image) for image in images[place::connections]]
        connection.close()
        return found

    with ThreadPoolExecutor(connections) as pool:
        parts = list(pool.map(run, range(connections)))
    return [parts[place % connections][place // connections] for place in range(len(images))]


def _curve(curve: CascadeCurve) -> str:
    lines = [
        f"Student alone {curve.student_accuracy:.2%}, teacher alone {curve.teacher_accuracy:.2%}. Thresholds "
        f"by {curve.validation_images:,} validation images, figures of {curve.test_images:,} test images.\n",
        "| chosen to escalate | threshold | escalated | accuracy |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {one.chosen_share:.1%} | {one.threshold:.4f} | {one.share:.2%} | {one.accuracy:.2%} |"
        for one in curve.points
    ]
    return "\n".join(lines)


def _row(name: str, unsure: Sequence[bool], answers: Sequence[Answer], labels: Sequence[str]) -> str:
    right = np.mean([one.predicted == label for one, label in zip(answers, labels, strict=True)])
    theirs = [one.ms for one in answers if one.by_teacher]
    cells = [
        name,
        f"{sum(unsure) / len(answers):.2%}",
        f"{len(theirs) / sum(unsure):.1%}" if any(unsure) else "",
        f"{right:.2%}",
        *_percentiles([one.ms for one in answers]),
        *(_percentiles(theirs) if theirs else ("", "")),
    ]
    return f"| {' | '.join(cells)} |"


def _percentiles(times_ms: Sequence[float]) -> tuple[str, str]:
    p50, p99 = np.percentile(times_ms, (50, 99))
    return f"{p50:.2f} ms", f"{p99:.2f} ms"


if __name__ == "__main__":
    main()
