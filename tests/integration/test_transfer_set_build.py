"""kill -9 in the middle of a build, with real processes all around: what is stored is not asked for again."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from shared.artefacts.datasets import Split
from shared.artefacts.store import ArtefactStore
from shared.contracts.jobs import JobState
from shared.contracts.reports import TransferSetReport
from shared.contracts.specs import TransferSetJobSpec
from shared.contracts.training import TransferSetSpec
from shared.jobs.service import new_job_id
from shared.transfer_set.format import MOST_SHARD_ROWS
from shared.transfer_set.reader import TransferSet
from tests.support.teachers import (
    CLASSES,
    expected_logits,
    publish,
    random_images,
    random_tensors,
    teacher_process,
)
from tests.support.worker_jobs import Jobs, StartWorker
from tests.support.worker_process import eventually

pytestmark = pytest.mark.integration

IMAGES = random_images(20_000)
ROWS = 2 * len(IMAGES)
SHARDS = -(-ROWS // MOST_SHARD_ROWS)
TENSORS = random_tensors(hidden=(16,), seed=3)


@pytest.fixture
def teacher_url(tmp_path: Path) -> Iterator[str]:
    store = ArtefactStore(tmp_path / "store")
    publish(tmp_path / "store", "owl", tensors=TENSORS)
    # Unlabelled: nobody needs labels to ask.
    splits = {"train": Split(IMAGES, None), "test": Split(IMAGES[:4], np.arange(4))}
    store.datasets.put("noise", splits, classes=CLASSES, source="a test")
    with teacher_process(tmp_path) as url:
        yield url


def rows_answered(teacher_url: str) -> int:
    """Return how many rows the teacher has answered, by its own count."""
    text = httpx.get(f"{teacher_url}/metrics").text
    counted = re.findall(r"^imago_teacher_rows_total(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE)
    assert counted
    return int(sum(map(float, counted)))


def test_a_build_whose_worker_is_killed_asks_for_one_shard_at_most_again(
    jobs: Jobs,
    start_worker: StartWorker,
    teacher_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEACHER_URL", teacher_url)
    real = {"training_module": "services.worker.training_process", "threads": 1}
    worker = start_worker(**real)
    spec = TransferSetJobSpec(
        name="asked",
        teacher="owl",
        dataset="noise",
        transfer_set=TransferSetSpec(views=2, jitter_px=3, flip=True),
    )
    job, _ = jobs.store.submit(new_job_id(), spec)
    jobs.dispatcher.send(job.id)

    def in_the_middle() -> bool:
        within = rows_answered(teacher_url) % MOST_SHARD_ROWS
        return 2_000 < within < 6_000

    sets = tmp_path / "store" / "transfer_sets"
    eventually(
        lambda: any(sets.glob("*/shard-00000*")) and in_the_middle(), 60, "a second shard is asked for"
    )
    worker.kill()
    stored_before = len(list(sets.glob("*/shard-*")))
    assert stored_before < SHARDS
    start_worker(**real)
    ended = jobs.final(job.id, 90)
    assert ended.state is JobState.SUCCEEDED, ended.failure
    asked = rows_answered(teacher_url)
    assert ROWS <= asked <= ROWS + MOST_SHARD_ROWS, f"{asked - ROWS:,} rows were asked for twice"
    report = TransferSetReport.model_validate_json(
        (tmp_path / "store" / "jobs" / job.id / "report.json").read_bytes()
    )
    assert report.asked.cost.rows_asked == ROWS
    assert ended.result is not None
    assert report.transfer_set_digest == ended.result.transfer_set
    (folder,) = sets.iterdir()
    stored = TransferSet.open(folder)
    assert sum(shard.rows for shard in stored.manifest.shards) == ROWS
    expected = expected_logits(TENSORS, IMAGES[-500:], temperature=1.0)
    np.testing.assert_allclose(stored.logits[0, -500:], expected, atol=2e-2)
