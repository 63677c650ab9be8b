import hashlib
import io
import json
import subprocess
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from shared.artefacts.datasets import Split
from shared.artefacts.files import digest_of
from shared.contracts.jobs import Failure, JobView
from shared.contracts.training import TransferSetSpec
from shared.contracts.transfer_sets import TransferSetCard, TransferSetCost, TransferSetPage
from shared.jobs.memory_store import MemoryJobStore
from shared.transfer_set.format import TransferSetManifest
from shared.transfer_set.reader import TransferSet
from shared.transfer_set.store import TransferSetStore
from tests.support.gateway_in_process import InProcessGateway, MemoryDispatcher, TestClient, refused
from tests.support.teachers_at_rest import publish_teacher
from tests.support.transfer_sets import CLASSES, IMAGES, add_summary, write_set

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
COST = TransferSetCost(job_id="j-1", rows_asked=60, rows_from_cache=20, rows_rescored=5, shards_rebuilt=1)
SPEC = {"name": "views", "teacher": "big", "dataset": "mnist-5k", "transfer_set": {"views": 2}}


@pytest.fixture
def sets(settings: GatewaySettings) -> TransferSetStore:
    return TransferSetStore(settings.transfer_sets_place, settings.transfer_sets_cache)


@pytest.fixture
def stored(sets: TransferSetStore) -> TransferSetManifest:
    manifest = write_set(sets)
    add_summary(sets, manifest, COST)
    return manifest


def url(manifest: TransferSetManifest, rest: str = "") -> str:
    return f"/v1/transfer-sets/{manifest.digest}{rest}"


def unfinished_job(gateway: InProcessGateway, **changes: object) -> str:
    """Put a distillation on record that names the set's teacher and a dataset that nobody can look into."""
    spec = {"kind": "distillation", "name": "small", "teacher": "big", "dataset": "noise", **changes}
    job = JobView.model_validate({"id": "j-x", "state": "queued", "spec": spec, "created_at": NOON})
    return gateway.jobs.submit("j-x", job.spec)[0].id


# --- building ----------------------------------------------------------------------------------------------


def test_a_set_is_built_by_a_job_and_its_kind_need_not_be_said(gateway: InProcessGateway, teacher: str):
    answer = gateway.client.post("/v1/transfer-sets", json={**SPEC, "teacher": teacher})
    assert answer.status_code == 201, answer.text
    job = JobView.model_validate(answer.json())
    assert answer.headers["location"] == f"/v1/jobs/{job.id}"
    assert (job.spec.kind, job.spec.transfer_set.views) == ("transfer_set", 2)
    assert gateway.dispatcher.sent == [job.id]
    assert gateway.client.get("/v1/jobs?kind=transfer_set").json()["jobs"][0]["id"] == job.id


def test_the_same_key_and_order_make_one_job(gateway: InProcessGateway, teacher: str):
    def ask() -> object:
        return gateway.client.post(
            "/v1/transfer-sets", json={**SPEC, "teacher": teacher}, headers={"Idempotency-Key": "k"}
        )

    first, again = ask(), ask()
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"teacher": "nobody"}, 404, "teacher-not-found"),
        ({"dataset": "nothing"}, 404, "dataset-not-found"),
        ({"transfer_set": {"omit": ["3"], "only": ["7"]}}, 422, "omit-and-only"),
        ({"transfer_set": {"views": 0}}, 422, "request-invalid"),
        ({"temperature": 0}, 422, "invalid-temperature"),
        ({"asking": {"live": True}}, 422, "asking-impossible"),
        ({"kind": "distillation"}, 422, "request-invalid"),
        ({"epochs": 3}, 422, "request-invalid"),
    ],
)
def test_what_cannot_be_built_is_refused_before_it_costs_anything(
    gateway: InProcessGateway, teacher: str, changes: dict[str, object], status: int, code: str
):
    refused(
        gateway.client.post("/v1/transfer-sets", json={**SPEC, "teacher": teacher, **changes}), status, code
    )
    assert gateway.dispatcher.sent == []


@pytest.fixture
def teacher(gateway: InProcessGateway) -> str:
    """A teacher of digits in the store."""
    return publish_teacher(gateway.store, "digits-teacher").name


# --- looking -----------------------------------------------------------------------------------------------


def test_a_set_is_shown_with_its_figures(gateway: InProcessGateway, stored: TransferSetManifest):
    card = TransferSetCard.model_validate(gateway.client.get(url(stored)).json())
    assert (card.digest, card.created_at, card.format) == (
        stored.digest,
        stored.created_at,
        stored.inputs.format,
    )
    assert (card.teacher, card.teacher_digest) == ("big", digest_of("big"))
    assert (card.dataset, card.dataset_digest) == (None, digest_of("noise"))
    assert (card.images, card.views, card.rows, card.shards) == (IMAGES, 2, 2 * IMAGES, 3)
    assert card.spec == stored.inputs.spec
    summary = card.summary
    assert summary.cost == COST
    assert [one.name for one in summary.classes] == list(CLASSES)
    assert sum(one.labelled for one in summary.classes) == 2 * IMAGES
    assert [one.temperature for one in summary.entropy] == [1, 2, 4, 8, 20]
    assert summary.top_k_error is None


def test_its_size_is_that_of_all_its_files(
    gateway: InProcessGateway, stored: TransferSetManifest, settings: GatewaySettings
):
    folder = settings.store_dir / "transfer_sets" / stored.digest
    shown = gateway.client.get(url(stored)).json()
    assert shown["size_bytes"] == sum(path.stat().st_size for path in folder.iterdir())
    assert set(shown["files"]) == {path.name for path in folder.iterdir()}


def test_an_older_set_has_no_figures_and_is_shown_all_the_same(
    gateway: InProcessGateway, sets: TransferSetStore
):
    manifest = write_set(sets)
    shown = gateway.client.get(url(manifest)).json()
    assert shown["summary"] is None
    assert shown["rows"] == 2 * IMAGES


def test_a_summary_that_cannot_be_read_hides_no_set(gateway: InProcessGateway, sets: TransferSetStore):
    manifest = write_set(sets)
    sets.put_file(manifest.digest, "summary.json", b"{}")
    assert gateway.client.get(url(manifest)).json()["summary"] is None


def test_a_set_names_its_dataset_where_the_store_has_it(gateway: InProcessGateway, sets: TransferSetStore):
    images = Split(np.zeros((4, 6, 5, 1), np.uint8), None)
    dataset = gateway.store.datasets.put("mine", {"train": images}, classes=(), source="a test")
    manifest = write_set(sets, dataset_digest=dataset.digest)
    assert gateway.client.get(url(manifest)).json()["dataset"] == "mine"
    assert gateway.client.get("/v1/transfer-sets").json()["transfer_sets"][0]["dataset"] == "mine"


def test_a_damaged_dataset_hides_no_set(
    gateway: InProcessGateway, settings: GatewaySettings, stored: TransferSetManifest
):
    images = Split(np.zeros((4, 6, 5, 1), np.uint8), None)
    gateway.store.datasets.put("mine", {"train": images}, classes=(), source="a test")
    (settings.store_dir / "datasets" / "mine" / "manifest.json").write_text("{}")
    assert gateway.client.get("/v1/transfer-sets").json()["transfer_sets"][0]["dataset"] is None
    unfinished_job(gateway, dataset="mine")
    refused(gateway.client.delete(url(stored)), 409, "transfer-set-in-use")


def test_sets_are_listed_newest_first_page_by_page(gateway: InProcessGateway, sets: TransferSetStore):
    made = [
        write_set(sets, spec=TransferSetSpec(views=2, seed=seed), created_at=NOON + timedelta(minutes=seed))
        for seed in (3, 1, 4, 2, 0)
    ]
    newest = sorted((one.digest for one in made), key=lambda digest: age(made, digest))
    seen: list[str] = []
    cursor = ""
    for _ in range(3):
        page = TransferSetPage.model_validate(gateway.client.get(f"/v1/transfer-sets?limit=2{cursor}").json())
        seen += [one.digest for one in page.transfer_sets]
        cursor = f"&cursor={page.next_cursor}"
    assert seen == newest
    assert page.next_cursor is None


def age(made: list[TransferSetManifest], digest: str) -> timedelta:
    return NOON - next(one.created_at for one in made if one.digest == digest)


def test_a_page_goes_on_behind_a_set_that_was_deleted(gateway: InProcessGateway, sets: TransferSetStore):
    made = [
        write_set(sets, spec=TransferSetSpec(seed=seed), created_at=NOON - timedelta(minutes=seed))
        for seed in range(3)
    ]
    first = gateway.client.get("/v1/transfer-sets?limit=1").json()
    sets.delete(made[0].digest)
    cursor = first["next_cursor"]
    rest = gateway.client.get("/v1/transfer-sets", params={"limit": 1, "cursor": cursor}).json()
    assert rest["transfer_sets"][0]["digest"] == made[1].digest


def test_a_page_that_cannot_be_is_refused(gateway: InProcessGateway):
    for query in ("cursor=x", "cursor=5", "limit=0", "limit=101", "cursor=-1-ab"):
        refused(gateway.client.get(f"/v1/transfer-sets?{query}"), 422, "request-invalid")


def test_sets_that_are_not_finished_or_damaged_are_not_listed(
    gateway: InProcessGateway, sets: TransferSetStore, stored: TransferSetManifest
):
    unfinished = write_set(sets, teacher="other")
    sets.file(unfinished.digest, "manifest.json").unlink()
    damaged = write_set(sets, teacher="another")
    sets.file(damaged.digest, "manifest.json").write_text("{}")
    listed = gateway.client.get("/v1/transfer-sets").json()["transfer_sets"]
    assert [one["digest"] for one in listed] == [stored.digest]
    refused(gateway.client.get(url(unfinished)), 404, "transfer-set-not-found")
    refused(gateway.client.get(url(damaged)), 500, "corrupt")


# --- fetching ----------------------------------------------------------------------------------------------


def test_every_file_can_be_fetched(gateway: InProcessGateway, stored: TransferSetManifest):
    for shard in stored.shards:
        answer = gateway.client.get(url(stored, f"/files/{shard.file}"))
        assert hashlib.sha256(answer.content).hexdigest() == shard.sha256
        assert answer.headers["content-type"] == "application/vnd.safetensors"
    manifest = gateway.client.get(url(stored, "/files/manifest.json"))
    assert TransferSetManifest.model_validate(manifest.json()) == stored
    assert gateway.client.get(url(stored, "/files/summary.json")).json()["digest"] == stored.digest
    assert gateway.client.get(url(stored, "/files/entropy.svg")).headers["content-type"] == "image/svg+xml"
    assert gateway.client.get(url(stored, "/files/entropy.png")).headers["content-type"] == "image/png"


def test_the_download_unpacks_to_a_set_that_reads(
    gateway: InProcessGateway, stored: TransferSetManifest, sets: TransferSetStore, tmp_path: Path
):
    answer = gateway.client.get(url(stored, "/download"))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/x-tar"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers["content-disposition"].endswith(f'"transfer-set-{stored.digest[:12]}.tar"')
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        assert tar.getnames()[-1] == f"{stored.digest}/manifest.json"
    (tmp_path / "there").mkdir()
    subprocess.run(["tar", "-x", "-C", tmp_path / "there"], input=answer.content, check=True)
    there = TransferSetStore(str(tmp_path / "there"), tmp_path / "cache")
    assert there.manifest(stored.digest) == stored
    mine = sets.open(stored.digest)
    theirs: TransferSet = there.open(stored.digest)
    assert (theirs.logits == mine.logits).all()
    assert there.files(stored.digest) == sets.files(stored.digest)


def test_a_set_with_a_missing_shard_is_not_packed(
    gateway: InProcessGateway, sets: TransferSetStore, stored: TransferSetManifest
):
    sets.file(stored.digest, stored.shards[1].file).unlink()
    refused(gateway.client.get(url(stored, "/download")), 500, "corrupt")
    refused(gateway.client.get(url(stored, f"/files/{stored.shards[1].file}")), 500, "corrupt")


def test_sets_that_lie_elsewhere_are_handled_alike(settings: GatewaySettings, tmp_path: Path):
    elsewhere = settings.model_copy(update={"transfer_sets_url": "memory://of-the-gateway"})
    store = TransferSetStore(elsewhere.transfer_sets_place, tmp_path / "of the worker")
    manifest = write_set(store)
    add_summary(store, manifest, COST)
    with TestClient(create_app(elsewhere, jobs=MemoryJobStore(), dispatcher=MemoryDispatcher())) as client:
        (listed,) = client.get("/v1/transfer-sets").json()["transfer_sets"]
        assert listed["size_bytes"] == store.size_bytes(manifest.digest)
        assert client.get(url(manifest)).json()["summary"]["cost"]["rows_asked"] == 60
        data = client.get(url(manifest, "/download")).content
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            assert sorted(name.partition("/")[2] for name in tar.getnames()) == store.files(manifest.digest)
        assert client.delete(url(manifest)).status_code == 204
    assert store.files(manifest.digest) == []


def test_a_place_that_does_not_answer_is_unavailable(settings: GatewaySettings):
    nowhere = settings.model_copy(update={"transfer_sets_url": "nothing://there"})
    with TestClient(create_app(nowhere, jobs=MemoryJobStore(), dispatcher=MemoryDispatcher())) as client:
        for answer in (client.get("/v1/transfer-sets"), client.get(f"/v1/transfer-sets/{'0' * 64}")):
            problem = refused(answer, 503, "transfer-sets-unavailable")
            assert problem["detail"] == "the transfer sets cannot be reached"
            assert "nothing" not in answer.text


NO_DIGESTS = ("0" * 64, "nothing", "..", "%2e%2e", "a%2fb", "A" * 64, "0" * 63, "%00", "f" * 3000)


def test_a_digest_that_is_none_is_404(
    gateway: InProcessGateway, sets: TransferSetStore, stored: TransferSetManifest
):
    for digest in NO_DIGESTS:
        for rest in ("", "/files/manifest.json", "/download"):
            answer = gateway.client.get(f"/v1/transfer-sets/{digest}{rest}")
            assert answer.status_code == 404, digest
            assert answer.json()["code"] in ("transfer-set-not-found", "not-found")
        assert gateway.client.delete(f"/v1/transfer-sets/{digest}").status_code in (404, 405)
    assert sets.digests() == [stored.digest]


def test_a_file_outside_the_set_is_404(
    gateway: InProcessGateway, stored: TransferSetManifest, settings: GatewaySettings
):
    (settings.store_dir / "transfer_sets" / stored.digest / ".hidden").write_text("secret")
    for name in (
        "nothing", "%2e%2e", "%2e%2e%2f%2e%2e%2fstudents", "manifest.json%00", "%2fetc%2fpasswd", ".hidden",
        "MANIFEST.JSON", "shard-99999.safetensors", "%2e%2fmanifest.json",
    ):  # fmt: skip
        answer = gateway.client.get(url(stored, f"/files/{name}"))
        assert answer.status_code == 404, name
        assert answer.json()["code"] in ("file-not-in-bundle", "not-found")


def test_the_refusal_of_a_file_does_not_list_thousands(gateway: InProcessGateway, sets: TransferSetStore):
    manifest = write_set(sets, shard_rows=1)
    assert len(manifest.shards) == 80
    remedy = refused(gateway.client.get(url(manifest, "/files/x")), 404, "file-not-in-bundle")["remedy"]
    assert remedy.startswith("Its files are: manifest.json, shard-00000.safetensors, ")
    assert len(remedy) < 1000


# --- deleting ----------------------------------------------------------------------------------------------


def test_a_deleted_set_is_gone(
    gateway: InProcessGateway, stored: TransferSetManifest, settings: GatewaySettings
):
    answer = gateway.client.delete(url(stored))
    assert (answer.status_code, answer.content) == (204, b"")
    assert not (settings.store_dir / "transfer_sets" / stored.digest).exists()
    refused(gateway.client.get(url(stored)), 404, "transfer-set-not-found")
    refused(gateway.client.delete(url(stored)), 404, "transfer-set-not-found")


def test_a_set_stays_while_a_job_may_use_it(
    gateway: InProcessGateway, sets: TransferSetStore, stored: TransferSetManifest
):
    job = unfinished_job(gateway)
    problem = refused(gateway.client.delete(url(stored)), 409, "transfer-set-in-use")
    assert job in problem["detail"]
    assert sets.open(stored.digest).manifest == stored
    gateway.jobs.acquire(job, 60, 3)
    refused(gateway.client.delete(url(stored)), 409, "transfer-set-in-use")
    gateway.jobs.fail(job, 1, Failure(code="diverged", detail="nan"))
    assert gateway.client.delete(url(stored)).status_code == 204


def test_jobs_on_another_teacher_are_not_in_the_way(gateway: InProcessGateway, stored: TransferSetManifest):
    unfinished_job(gateway, teacher="other")
    assert gateway.client.delete(url(stored)).status_code == 204


@pytest.mark.parametrize("manifest", [None, "{}", json.dumps({"inputs": {"format": 1}})])
def test_what_is_left_unfinished_damaged_or_too_old_can_be_deleted_when_no_job_asks_a_teacher(
    gateway: InProcessGateway, sets: TransferSetStore, stored: TransferSetManifest, manifest: str | None
):
    path = sets.file(stored.digest, "manifest.json")
    path.unlink() if manifest is None else path.write_text(manifest)
    job = unfinished_job(gateway, teacher="any")
    refused(gateway.client.delete(url(stored)), 409, "transfer-set-in-use")
    gateway.jobs.request_cancel(job)
    assert gateway.client.delete(url(stored)).status_code == 204
    assert sets.files(stored.digest) == []
