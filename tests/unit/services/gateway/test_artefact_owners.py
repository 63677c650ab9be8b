"""Whose datasets, teachers, students and transfer sets are; tests/chaos/test_matrix.py has every route."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from services.gateway.settings import GatewaySettings
from shared.adapters.web.access import CALLER, Caller
from shared.artefacts.datasets import Split
from shared.artefacts.students import StudentStore
from shared.contracts.keys import Scope
from shared.contracts.traffic import Canary, TrafficPolicy
from shared.transfer_set.store import TransferSetStore
from tests.support.gateway_in_process import InProcessGateway, TestClient, refused
from tests.support.jobs import distillation_spec
from tests.support.teachers_at_rest import publish_teacher
from tests.support.transfer_sets import CLASSES, GREY, write_set
from tests.unit.services.gateway.test_datasets import folders, zipped
from tests.unit.services.gateway.test_kept import freeze, keep

As = Callable[[str], TestClient]
PICTURES = zipped(folders(round=12, square=12))


@pytest.fixture
def as_(gateway: InProcessGateway) -> As:
    """Return a client of somebody with a key, as the guard would let them through; `root` is admin."""

    def client(owner: str) -> TestClient:
        scopes = frozenset({Scope.ADMIN} if owner == "root" else set(Scope) - {Scope.ADMIN})

        async def guarded(scope, receive, send):
            await gateway.client.app(scope | {CALLER: Caller(owner, "0" * 12, scopes)}, receive, send)

        return TestClient(guarded)

    return client


def upload(client: TestClient, name: str = "shapes", data: bytes = PICTURES) -> Any:
    return client.post("/v1/datasets", data={"name": name}, files=[("files", ("a.zip", data))])


def student(gateway: InProcessGateway, version: str, owner: str | None) -> str:
    gateway.store.owners.add("students", version, owner)
    gateway.publish(version)
    return version


def teacher(gateway: InProcessGateway, name: str, owner: str | None) -> str:
    gateway.store.owners.add("teachers", name, owner)
    publish_teacher(gateway.store, name)
    return name


# --- datasets ----------------------------------------------------------------------------------------------


def test_an_uploaded_dataset_is_the_callers(gateway, as_):
    assert upload(as_("ann")).status_code == 201
    assert gateway.store.owners.of("datasets", "shapes") == {"ann"}
    assert as_("ann").get("/v1/datasets/shapes").status_code == 200
    refused(as_("bob").get("/v1/datasets/shapes"), 404, "dataset-not-found")


def test_a_name_that_another_has_is_refused_whatever_the_content(gateway, as_):
    """Else an upload would find out what others have."""
    upload(as_("ann"))
    same = refused(upload(as_("bob")), 409, "dataset-exists")
    other = refused(upload(as_("bob"), data=zipped(folders(round=12, other=12))), 409, "dataset-exists")
    assert same | {"request_id": ""} == other | {"request_id": ""}
    assert gateway.store.owners.of("datasets", "shapes") == {"ann"}
    assert upload(as_("ann")).status_code == 201


def test_built_in_datasets_are_everybodys_and_no_upload_takes_their_name(as_):
    assert as_("bob").get("/v1/datasets/mnist-5k").status_code == 200
    refused(upload(as_("root"), "mnist-5k"), 409, "dataset-exists")


def test_a_dataset_that_is_deleted_with_kept_images_forgets_its_owner(gateway, as_):
    keep(gateway)
    gateway.store.owners.add("datasets", "frozen", "ann")
    freeze(gateway, "frozen", "mnist-5k")
    assert as_("root").delete("/v1/kept/unsure?datasets=true").json()["datasets"] == ["frozen"]
    assert gateway.store.owners.of("datasets", "frozen") == frozenset()


# --- teachers ----------------------------------------------------------------------------------------------

TEACHER = {"kind": "teacher", "name": "big", "dataset": "mnist-5k"}
SPECIALISTS = {"kind": "specialists", "name": "big", "generalist": "mine", "dataset": "mnist-5k"}
ENSEMBLE = {"kind": "teacher_import", "name": "big", "source": {"kind": "ensemble", "members": ["a", "b"]}}


@pytest.mark.parametrize("owner", ["ann", None])
@pytest.mark.parametrize("who", ["bob", "root"])
@pytest.mark.parametrize("spec", [TEACHER, SPECIALISTS, ENSEMBLE], ids=lambda spec: spec["kind"])
def test_no_job_makes_a_teacher_under_a_name_of_others(gateway, as_, owner, who, spec):
    teacher(gateway, "big", owner)
    refused(as_(who).post("/v1/jobs", json=spec), 409, "teacher-exists")
    if spec is ENSEMBLE:
        order = {name: spec[name] for name in ("name", "source")}
        refused(as_(who).post("/v1/teachers", json=order), 409, "teacher-exists")
    assert gateway.client.get("/v1/jobs").json()["jobs"] == []


def test_a_teacher_of_ones_own_may_be_made_anew(gateway, as_):
    teacher(gateway, "big", "ann")
    assert as_("ann").post("/v1/jobs", json=TEACHER).status_code == 201


def test_an_upload_for_a_teacher_of_anothers_name_is_refused_before_a_file_is_kept(gateway, as_):
    teacher(gateway, "big", "ann")
    words = '{"name": "big", "source": {"kind": "onnx"}}'
    answer = as_("bob").post(
        "/v1/teachers", data={"teacher": words}, files=[("files", ("model.onnx", b"x" * 1000))]
    )
    refused(answer, 409, "teacher-exists")
    assert list((gateway.store.root / "uploads").iterdir()) == []


def test_folders_that_were_put_into_the_store_are_for_administrators(gateway, as_):
    (gateway.store.root / "incoming" / "drop").mkdir(parents=True)
    order = {"name": "big", "source": {"kind": "onnx", "files": {"folder": "drop"}}}
    found = refused(as_("ann").post("/v1/teachers", json=order), 404, "incoming-not-found")
    order["source"]["files"]["folder"] = "none"
    missing = refused(as_("ann").post("/v1/teachers", json=order), 404, "incoming-not-found")
    assert str(found).replace("drop", "none") == str(missing | {"request_id": found["request_id"]})
    refused(as_("root").post("/v1/teachers", json=order), 404, "incoming-not-found")
    order["source"]["files"]["folder"] = "drop"
    assert as_("root").post("/v1/teachers", json=order).json()["code"] == "invalid-model-files"  # it is empty


# --- students ----------------------------------------------------------------------------------------------


def test_a_job_may_not_let_anothers_student_disagree_with_its_teacher(gateway, as_):
    teacher(gateway, "mine", "bob")
    student(gateway, "small-1", "ann")
    spec = {
        "kind": "transfer_set", "name": "views", "teacher": "mine", "dataset": "mnist-5k",
        "transfer_set": {"choose": {"by": "disagreement", "share": 0.5, "student": "small-1"}},
    }  # fmt: skip
    refused(as_("bob").post("/v1/jobs", json=spec), 404, "student-not-found")
    refused(as_("bob").post("/v1/transfer-sets", json=spec), 404, "student-not-found")
    gateway.store.owners.add("students", "small-1", "bob")
    assert as_("bob").post("/v1/jobs", json=spec).status_code == 201


def test_a_deleted_student_has_no_owner(gateway, as_):
    student(gateway, "small-1", "ann")
    assert as_("ann").delete("/v1/students/small-1").status_code == 204
    assert gateway.store.owners.of("students", "small-1") == frozenset()


def test_a_list_opens_no_card_of_others(gateway, as_, monkeypatch):
    for number in range(5):
        student(gateway, f"small-{number}", "ann" if number else "bob")
    opened = []
    card = StudentStore.card
    monkeypatch.setattr(StudentStore, "card", lambda store, one: opened.append(one) or card(store, one))
    listed = as_("bob").get("/v1/students").json()["students"]
    assert [one["version"] for one in listed] == opened == ["small-0"]


def test_everybody_asks_the_students_that_answer_and_only_owners_the_others(gateway, as_):
    for version, owner in (("live-1", None), ("canary-1", "ann"), ("mine-1", "ann"), ("theirs-1", "bob")):
        student(gateway, version, owner)
    assert as_("root").post("/v1/students/live-1/promote").status_code == 200
    policy = TrafficPolicy(canary=Canary(version="canary-1", share=0.1))
    assert as_("root").put("/v1/traffic", json=policy.model_dump(mode="json")).status_code == 200

    def may_ask(owner: str) -> set[str]:
        versions = ("live-1", "canary-1", "mine-1", "theirs-1")
        ready = {
            one
            for one in versions
            if as_(owner).get(f"/v2/models/digits/versions/{one}/ready").status_code == 200
        }
        assert set(as_(owner).get("/v2/models/digits").json()["versions"]) == ready
        return ready

    assert may_ask("ann") == {"live-1", "canary-1", "mine-1"}
    assert may_ask("bob") == {"live-1", "canary-1", "theirs-1"}
    assert may_ask("root") == {"live-1", "canary-1", "mine-1", "theirs-1"}
    unknown, theirs = (
        as_("bob").get(f"/v2/models/digits/versions/{one}").json()["error"] for one in ("none-1", "mine-1")
    )
    assert theirs == unknown.replace("none-1", "mine-1")


def test_whoever_asks_the_live_student_gets_neither_its_card_nor_its_weights(gateway, as_):
    student(gateway, "live-1", None)
    as_("root").post("/v1/students/live-1/promote")
    assert as_("bob").get("/v1/students").json() == {"live": "live-1", "students": []}
    for path in ("", "/files/model.onnx", "/comparison"):
        refused(as_("bob").get(f"/v1/students/live-1{path}"), 404, "student-not-found")


def test_a_refusal_to_delete_names_no_jobs_of_others(gateway, as_):
    teacher(gateway, "mine", "ann")
    student(gateway, "small-1", "ann")
    spec = {
        "kind": "transfer_set", "name": "views", "teacher": "mine", "dataset": "mnist-5k",
        "transfer_set": {"choose": {"by": "disagreement", "share": 0.5, "student": "small-1"}},
    }  # fmt: skip
    roots = as_("root").post("/v1/jobs", json=spec).json()["id"]
    told = refused(as_("ann").delete("/v1/students/small-1"), 409, "student-in-use")
    assert roots not in str(told)
    assert "another owner's" in str(told["detail"])
    anns = as_("ann").post("/v1/jobs", json=spec).json()["id"]
    told = refused(as_("ann").delete("/v1/students/small-1"), 409, "student-in-use")
    assert anns in str(told)
    assert roots not in str(told)


# --- transfer sets -----------------------------------------------------------------------------------------


@pytest.fixture
def shared_set(gateway: InProcessGateway, settings: GatewaySettings) -> str:
    """A set that ann and bob have."""
    sets = TransferSetStore(settings.transfer_sets_place, settings.transfer_sets_cache)
    digest = write_set(sets).digest
    for owner in ("ann", "bob"):
        gateway.store.owners.add("transfer_sets", digest, owner)
    return digest


def test_one_of_several_owners_deletes_a_set_for_themselves_alone(gateway, as_, shared_set):
    url = f"/v1/transfer-sets/{shared_set}"
    assert as_("ann").delete(url).status_code == 204
    refused(as_("ann").get(url), 404, "transfer-set-not-found")
    assert as_("bob").get(f"{url}/download").status_code == 200
    assert as_("bob").delete(url).status_code == 204
    refused(as_("root").get(url), 404, "transfer-set-not-found")
    assert gateway.store.owners.of("transfer_sets", shared_set) == frozenset()


def test_whoever_takes_a_set_when_its_last_owner_has_given_it_up_keeps_it(
    gateway, as_, shared_set, monkeypatch
):
    owners = gateway.parts.store.owners
    owners.give_up("transfer_sets", shared_set, "bob")
    give_up = owners.give_up

    def taken_meanwhile(*what: str) -> frozenset[str]:
        left = give_up(*what)
        gateway.store.owners.add("transfer_sets", shared_set, "cy")
        return left

    monkeypatch.setattr(owners, "give_up", taken_meanwhile)
    assert as_("ann").delete(f"/v1/transfer-sets/{shared_set}").status_code == 204
    assert gateway.store.owners.of("transfer_sets", shared_set) == {"cy"}


def test_an_administrator_deletes_a_set_for_everybody(gateway, as_, shared_set):
    assert as_("root").delete(f"/v1/transfer-sets/{shared_set}").status_code == 204
    refused(as_("bob").get(f"/v1/transfer-sets/{shared_set}"), 404, "transfer-set-not-found")
    assert gateway.store.owners.of("transfer_sets", shared_set) == frozenset()


def test_anothers_job_on_a_set_is_in_the_way_of_nobody_else_and_is_not_named(gateway, as_, shared_set):
    gateway.jobs.submit("j-bobs", distillation_spec(dataset="noise"), owner="bob")
    url = f"/v1/transfer-sets/{shared_set}"
    assert "j-bobs" in str(refused(as_("bob").delete(url), 409, "transfer-set-in-use"))
    assert as_("ann").delete(url).status_code == 204
    gateway.jobs.submit("j-roots", distillation_spec(dataset="noise"), owner="root")
    told = str(refused(as_("bob").delete(url), 409, "transfer-set-in-use"))
    assert "j-bobs" in told
    assert "j-roots" not in told


def test_a_set_names_a_dataset_of_the_caller_alone(gateway, as_, settings):
    """Two of them may have the same content, under names that are nobody else's business."""
    images = np.zeros((3, GREY.height, GREY.width, 1), np.uint8)
    for name, owner in (("a-secret-of-anns", "ann"), ("mine", "bob")):
        gateway.store.owners.add("datasets", name, owner)
        split = Split(images, np.arange(3, dtype=np.int64))
        manifest = gateway.store.datasets.put(name, {"train": split}, classes=CLASSES, source="")
    sets = TransferSetStore(settings.transfer_sets_place, settings.transfer_sets_cache)
    digest = write_set(sets, dataset_digest=manifest.digest).digest
    for owner in ("bob", "cy"):
        gateway.store.owners.add("transfer_sets", digest, owner)
    assert as_("bob").get(f"/v1/transfer-sets/{digest}").json()["dataset"] == "mine"
    assert as_("cy").get(f"/v1/transfer-sets/{digest}").json()["dataset"] is None
