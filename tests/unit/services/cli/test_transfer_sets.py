"""`imago transfer-sets` against a real gateway in this process, with a job store in memory."""

import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.cli.app import main
from services.cli.commands.common import Outside
from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from shared.artefacts.store import ArtefactStore
from shared.contracts.jobs import Failure, JobResult
from shared.contracts.specs import TransferSetJobSpec
from shared.contracts.training import TransferSetSpec
from shared.contracts.transfer_sets import TransferSetCost
from shared.jobs.memory_store import MemoryJobStore
from shared.transfer_set.format import TransferSetManifest
from shared.transfer_set.store import TransferSetStore
from tests.support.gateway_in_process import TestClient
from tests.support.teachers_at_rest import publish_teacher
from tests.support.transfer_sets import add_summary, write_set

BUILT = "cd" * 32
NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


class WorkerAtOnce:
    """A `Dispatcher` whose worker has done the job before the answer is read."""

    def __init__(self, jobs: MemoryJobStore) -> None:
        self.jobs = jobs
        self.fails = False

    def send(self, job_id: str) -> None:
        self.jobs.acquire(job_id, 60, 3)
        if self.fails:
            self.jobs.fail(job_id, 1, Failure(code="teacher-unavailable", detail="no answer", remedy="Wait."))
        else:
            self.jobs.succeed(job_id, 1, JobResult(teacher="digits-teacher", transfer_set=BUILT))


@dataclass
class Left:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Imago = Callable[..., Left]


@pytest.fixture
def settings(tmp_path: Path) -> GatewaySettings:
    return GatewaySettings(state_dir=tmp_path / "state", promotion_poll_s=0.5)


@pytest.fixture
def sets(settings: GatewaySettings) -> TransferSetStore:
    return TransferSetStore(settings.transfer_sets_place, settings.transfer_sets_cache)


@pytest.fixture
def stored(sets: TransferSetStore) -> TransferSetManifest:
    manifest = write_set(sets, created_at=NOON)
    add_summary(
        sets, manifest, TransferSetCost(rows_asked=60, rows_from_cache=20, rows_rescored=5, seconds=1.5)
    )
    return manifest


@pytest.fixture
def jobs() -> MemoryJobStore:
    return MemoryJobStore()


@pytest.fixture
def worker(jobs: MemoryJobStore) -> WorkerAtOnce:
    return WorkerAtOnce(jobs)


@pytest.fixture
def imago(
    settings: GatewaySettings,
    jobs: MemoryJobStore,
    worker: WorkerAtOnce,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Imago]:
    """Run a command in this process, in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("COLUMNS", "200")
    with TestClient(create_app(settings, jobs=jobs, dispatcher=worker)) as gateway:

        def forward(request: httpx.Request) -> httpx.Response:
            answer = gateway.request(
                request.method, request.url.raw_path.decode(), content=request.read(), headers=request.headers
            )
            return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

        def run(*arguments: str, transport: httpx.BaseTransport | None = None) -> Left:
            outside = Outside(transport=transport or httpx.MockTransport(forward))
            with pytest.raises(SystemExit) as left:
                main(("transfer-sets", *arguments, "--gateway", "http://gateway"), outside)
            printed = capsys.readouterr()
            code = left.value.code
            return Left(int(code or 0) if not isinstance(code, str) else 1, printed.out, printed.err)

        yield run


def test_sets_are_listed_with_their_size_and_the_way_to_the_next_page(imago: Imago, sets: TransferSetStore):
    made = [
        write_set(sets, spec=TransferSetSpec(seed=seed), created_at=NOON + timedelta(minutes=seed))
        for seed in range(2)
    ]
    left = imago("list", "--limit", "1")
    newest, oldest = made[1].digest[:12], made[0].digest[:12]
    assert newest in left.out
    assert oldest not in left.out
    assert " kB" in left.out
    cursor = left.out.split("--cursor ")[1].strip()
    assert oldest in imago("list", "--cursor", cursor).out
    assert len(imago("list", "--json").json["transfer_sets"]) == 2


def test_a_set_is_shown_by_its_first_characters_with_its_figures(imago: Imago, stored: TransferSetManifest):
    left = imago("show", stored.digest[:8])
    assert left.status == 0
    for words in (
        stored.digest,
        "80: 40 images in 2 views",
        "60 rows in 1.5 s",
        "20 rows, 5 of them asked again",
        "views 2, jitter_px 1",
        "Entropy of the targets (nats)",
        "Rows by class",
        "ant",
    ):
        assert words in left.out, words
    assert imago("show", stored.digest, "--json").json["summary"]["cost"]["rows_asked"] == 60


def test_a_set_without_figures_is_shown_without_them(imago: Imago, sets: TransferSetStore):
    left = imago("show", write_set(sets).digest)
    assert left.status == 0
    assert "Entropy" not in left.out


def test_a_beginning_that_fits_several_sets_is_refused_and_one_that_fits_none_is_not_found(
    imago: Imago, stored: TransferSetManifest
):
    assert imago("show", "0000000").err.startswith("error: transfer-set-not-found")
    page = {"transfer_sets": [imago("list", "--json").json["transfer_sets"][0]] * 2, "next_cursor": None}
    doubled = httpx.MockTransport(lambda _: httpx.Response(200, json=page))
    assert "digest-ambiguous" in imago("show", stored.digest[:8], transport=doubled).err


@pytest.fixture
def teacher(settings: GatewaySettings) -> str:
    return publish_teacher(ArtefactStore(settings.store_dir), "digits-teacher").name


def test_a_build_is_watched_to_its_end_and_names_the_set(imago: Imago, teacher: str, jobs: MemoryJobStore):
    left = imago(
        "build", "--teacher", teacher, "--dataset", "mnist-5k", "--views", "3", "--jitter-px", "2",
        "--flip", "--top-k", "5", "--tasks", "2",
    )  # fmt: skip
    assert left.status == 0, left.err
    assert BUILT in left.out
    (job,) = jobs.list().jobs
    assert job.spec.name == "mnist-5k-by-digits-teacher"
    assert job.spec.transfer_set == TransferSetSpec(views=3, jitter_px=2, flip=True, top_k=5)
    assert job.spec.asking.tasks == 2


def test_a_build_that_fails_leaves_with_its_reason(imago: Imago, teacher: str, worker: WorkerAtOnce):
    worker.fails = True
    left = imago("build", "--teacher", teacher, "--dataset", "mnist-5k")
    assert left.status == 1
    assert left.err.startswith("error: teacher-unavailable: job ")


def test_a_build_by_a_spec_need_not_be_watched(
    imago: Imago, teacher: str, jobs: MemoryJobStore, tmp_path: Path
):
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"name": "views", "teacher": teacher, "dataset": "mnist-5k"}))
    left = imago("build", str(spec), "--no-watch")
    assert left.out.strip() == jobs.list().jobs[0].id
    assert imago("build", str(spec), "--teacher", teacher).status == 2
    assert imago("build").status == 2


def test_a_build_that_cannot_be_is_refused_by_the_gateway(imago: Imago):
    assert imago("build", "--teacher", "nobody", "--dataset", "mnist-5k").err.startswith(
        "error: teacher-not-found"
    )
    assert imago("build", "--dataset", "mnist-5k").err.startswith("error: request-invalid")


def test_a_download_is_a_tar_of_the_whole_set(imago: Imago, stored: TransferSetManifest, tmp_path: Path):
    left = imago("download", stored.digest[:12])
    assert left.status == 0, left.err
    path = tmp_path / "here" / f"transfer-set-{stored.digest[:12]}.tar"
    assert left.out.startswith(path.name)
    with tarfile.open(path) as tar:
        assert f"{stored.digest}/manifest.json" in tar.getnames()
    assert list(path.parent.iterdir()) == [path]


def test_a_download_that_breaks_off_leaves_what_was_there(
    imago: Imago, stored: TransferSetManifest, tmp_path: Path
):
    class Cut(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield b"half"
            raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")

    out = tmp_path / "here" / "set.tar"
    out.write_bytes(b"before")
    cut = httpx.MockTransport(lambda _: httpx.Response(200, stream=Cut()))
    left = imago("download", stored.digest, "--out", str(out), transport=cut)
    assert left.err.startswith("error: gateway-unreachable")
    assert out.read_bytes() == b"before"
    assert list(out.parent.iterdir()) == [out]


def test_a_download_into_a_folder_that_is_not_there_says_so(imago: Imago, stored: TransferSetManifest):
    assert imago("download", stored.digest, "--out", "no/set.tar").err.startswith("error: file-not-writable")


def test_a_set_is_deleted_unless_a_job_may_use_it(
    imago: Imago, stored: TransferSetManifest, sets: TransferSetStore, jobs: MemoryJobStore
):
    jobs.submit("j-1", TransferSetJobSpec(name="set", teacher=stored.inputs.teacher, dataset="noise"))
    assert imago("delete", stored.digest).err.startswith("error: transfer-set-in-use")
    jobs.request_cancel("j-1")
    left = imago("delete", stored.digest[:10])
    assert left.out == f"{stored.digest} is deleted\n"
    assert sets.digests() == []
