"""The artefact store as a whole, and where jobs keep their files."""

from pathlib import Path

import pytest

from shared.artefacts.store import ArtefactStore
from shared.contracts.jobs import Stage


def test_asking_an_empty_store_touches_no_disk(tmp_path: Path) -> None:
    store = ArtefactStore(tmp_path / "store")
    assert (store.datasets.names(), store.teachers.names(), store.students.list()) == ([], [], [])
    assert store.students.live() is None
    assert store.job("job-1").directory == tmp_path / "store/jobs/job-1"
    assert not store.root.exists()


def test_stages_of_a_job_are_told_apart_by_name_and_digest(tmp_path: Path) -> None:
    files = ArtefactStore(tmp_path).job("job-1")
    paths = {files.stage(stage, digest * 64) for stage in (Stage.TRAIN, Stage.EXPORT) for digest in "ab"}
    assert len(paths) == 4
    assert all(path.parent == files.directory for path in paths)
    assert {files.report_json.name, files.report_md.name} == {"report.json", "report.md"}


@pytest.mark.parametrize("job_id", ["", "..", "a/b", "/etc"])
def test_a_job_cannot_lie_outside_the_store(tmp_path: Path, job_id: str) -> None:
    with pytest.raises(ValueError, match="id cannot be"):
        ArtefactStore(tmp_path).job(job_id)
