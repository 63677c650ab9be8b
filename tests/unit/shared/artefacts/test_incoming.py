import os
import time
from pathlib import Path

import pytest

from shared.artefacts.incoming import KEPT_S, Incoming, new_upload
from shared.contracts.teacher_sources import SentFiles
from shared.errors import IncomingNotFound, InvalidModelFiles, JobStoreUnavailable


@pytest.fixture
def incoming(tmp_path: Path) -> Incoming:
    return Incoming(tmp_path / "incoming")


def admitted(incoming: Incoming, tmp_path: Path) -> SentFiles:
    (tmp_path / "file-00").write_bytes(b"weights")
    upload = new_upload()
    incoming.admit(upload, {"model.safetensors": tmp_path / "file-00"})
    return SentFiles(upload=upload)


def aged(incoming: Incoming, sent: SentFiles) -> SentFiles:
    long_ago = time.time() - KEPT_S - 60
    os.utime(incoming.folder(sent), (long_ago, long_ago))
    return sent


def test_an_upload_is_found_under_its_name_until_it_is_discarded(incoming: Incoming, tmp_path: Path):
    sent = admitted(incoming, tmp_path)
    assert (incoming.folder(sent) / "model.safetensors").read_bytes() == b"weights"
    assert not (tmp_path / "file-00").exists()
    incoming.discard(sent)
    incoming.discard(sent)
    with pytest.raises(IncomingNotFound):
        incoming.folder(sent)


def test_an_upload_appears_whole_or_not_at_all(incoming: Incoming, tmp_path: Path):
    (tmp_path / "there").write_bytes(b"x")
    files = {"config.json": tmp_path / "there", "model.safetensors": tmp_path / "missing"}
    with pytest.raises(FileNotFoundError):
        incoming.admit(new_upload(), files)
    assert list((tmp_path / "incoming").iterdir()) == []


def test_uploads_that_no_job_came_for_are_swept_and_folders_stay(incoming: Incoming, tmp_path: Path):
    old, fresh = admitted(incoming, tmp_path), admitted(incoming, tmp_path)
    dropped = tmp_path / "incoming" / "my-vit"
    dropped.mkdir()
    aged(incoming, old)
    aged(incoming, SentFiles(folder="my-vit"))
    incoming.sweep(frozenset)
    with pytest.raises(IncomingNotFound):
        incoming.folder(old)
    assert incoming.folder(fresh).is_dir()
    assert incoming.folder(SentFiles(folder="my-vit")) == dropped


def test_an_upload_that_a_job_waits_for_is_kept_however_long_that_takes(incoming: Incoming, tmp_path: Path):
    wanted, other = aged(incoming, admitted(incoming, tmp_path)), aged(incoming, admitted(incoming, tmp_path))
    incoming.sweep(lambda: frozenset({str(wanted.upload)}))
    assert incoming.folder(wanted).is_dir()
    with pytest.raises(IncomingNotFound):
        incoming.folder(other)


def test_nothing_is_swept_while_nobody_can_tell_what_jobs_wait_for(incoming: Incoming, tmp_path: Path):
    def silent() -> frozenset[str]:
        raise JobStoreUnavailable("no answer")

    fresh = admitted(incoming, tmp_path)
    incoming.sweep(silent)  # nothing is old, so nobody is asked
    old = aged(incoming, fresh)
    with pytest.raises(JobStoreUnavailable):
        incoming.sweep(silent)
    assert incoming.folder(old).is_dir()


def test_an_upload_that_its_job_discards_meanwhile_is_no_error(
    incoming: Incoming, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sent = aged(incoming, admitted(incoming, tmp_path))
    stat = Path.stat

    def discarded(path: Path, **options: bool) -> os.stat_result:
        if path.name == sent.upload:
            incoming.discard(sent)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", discarded)
    incoming.sweep(frozenset)


def test_nothing_but_uploads_and_folders_is_looked_for(incoming: Incoming, tmp_path: Path):
    sent = admitted(incoming, tmp_path)
    assert sent.upload is not None
    for other in (SentFiles(upload="my-vit"), SentFiles(folder=sent.upload), SentFiles(folder="nothing")):
        with pytest.raises(IncomingNotFound):
            incoming.folder(other)
    for unclear in (SentFiles(), SentFiles(upload=sent.upload, folder="my-vit")):
        with pytest.raises(InvalidModelFiles):
            incoming.folder(unclear)


def test_a_folder_is_never_discarded(incoming: Incoming, tmp_path: Path):
    dropped = tmp_path / "incoming" / "my-vit"
    dropped.mkdir(parents=True)
    incoming.discard(SentFiles(folder="my-vit"))
    incoming.discard(SentFiles(upload="my-vit"))
    assert dropped.is_dir()
