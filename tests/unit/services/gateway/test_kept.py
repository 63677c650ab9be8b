"""Collections of kept images over HTTP."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from shared.artefacts.datasets import Split
from shared.artefacts.kept import KeptImage, Witness
from shared.contracts.kept import Frozen
from shared.contracts.traffic import Keeping, TrafficPolicy
from tests.support.gateway_in_process import InProcessGateway, image_file, refused
from tests.support.student_bundles import DIGIT_INPUT, DIGITS

WITNESS = Witness("wren-1", "mnist-5k", DIGIT_INPUT, DIGITS)


def keep(gateway: InProcessGateway, collection: str = "unsure", images: int = 3) -> None:
    kept = [KeptImage(bytes([number]) * DIGIT_INPUT.values, "escalated", 5.0) for number in range(images)]
    gateway.store.kept.add(collection, WITNESS, kept, most_images=100)


def freeze(gateway: InProcessGateway, name: str, base: str, collection: str = "unsure") -> None:
    seed = len(gateway.store.datasets.names())
    images = np.full((2, 28, 28, 1), seed, np.uint8)
    frozen = Frozen(
        collection=collection, base=base, base_digest="0" * 64, job_id="j-1", taken=1, known=0, held_out=0
    )
    gateway.store.datasets.put(
        name, {"train": Split(images, None)}, classes=(), source="a test", frozen=frozen
    )


def test_collections_are_listed_and_shown(gateway: InProcessGateway):
    assert gateway.client.get("/v1/kept").json() == {"collections": []}
    keep(gateway)
    (listed,) = gateway.client.get("/v1/kept").json()["collections"]
    shown = gateway.client.get("/v1/kept/unsure").json()
    assert shown == listed
    assert (shown["images"], shown["escalated"], shown["disagreed"]) == (3, 3, 0)
    assert shown["students"] == [{"student": "wren-1", "dataset": "mnist-5k", "images": 3}]
    assert shown["since"] == "1970-01-01T00:00:05Z"


@pytest.mark.parametrize("method", ["get", "delete"])
def test_what_was_never_kept_is_not_found(gateway: InProcessGateway, method: str):
    refused(getattr(gateway.client, method)("/v1/kept/nothing"), 404, "kept-not-found")


def test_withdrawn_consent_removes_every_image_and_names_the_copies(gateway: InProcessGateway):
    keep(gateway)
    freeze(gateway, "frozen", "mnist-5k")
    freeze(gateway, "frozen-again", "frozen", collection="later")
    freeze(gateway, "other", "mnist-5k", collection="later")
    answer = gateway.client.delete("/v1/kept/unsure").json()
    assert answer == {
        "name": "unsure", "images": 3, "datasets": ["frozen", "frozen-again"], "datasets_removed": False,
        "still_kept": False,
    }  # fmt: skip
    assert gateway.client.get("/v1/kept/unsure").status_code == 404
    assert not (gateway.store.root / "kept" / "unsure").exists()
    assert gateway.store.datasets.names() == ["frozen", "frozen-again", "other"]


def test_the_copies_go_with_the_images_where_that_is_asked(gateway: InProcessGateway):
    keep(gateway)
    freeze(gateway, "frozen", "mnist-5k")
    freeze(gateway, "other", "mnist-5k", collection="later")
    answer = gateway.client.delete("/v1/kept/unsure?datasets=true").json()
    assert (answer["datasets"], answer["datasets_removed"]) == (["frozen"], True)
    assert gateway.store.datasets.names() == ["other"]


def test_what_was_cut_off_is_asked_again_until_nothing_is_left(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
):
    """Each call dies once it has removed one thing; which those are that follow is known all the same."""
    keep(gateway)
    freeze(gateway, "frozen", "mnist-5k")
    freeze(gateway, "a-second", "frozen", collection="later")
    freeze(gateway, "third", "a-second", collection="later")
    delete = gateway.parts.store.datasets.delete

    def dying(name: str) -> None:
        delete(name)
        raise ConnectionError("cut off")

    monkeypatch.setattr(gateway.parts.store.datasets, "delete", dying)
    for left in (["a-second", "frozen"], ["frozen"], []):
        assert gateway.client.delete("/v1/kept/unsure?datasets=true").status_code == 500
        assert gateway.store.datasets.names() == left
    refused(gateway.client.delete("/v1/kept/unsure?datasets=true"), 404, "kept-not-found")


def test_copies_can_be_removed_after_the_images_were(gateway: InProcessGateway):
    keep(gateway)
    freeze(gateway, "frozen", "mnist-5k")
    assert gateway.client.delete("/v1/kept/unsure").json()["images"] == 3
    refused(gateway.client.delete("/v1/kept/unsure"), 404, "kept-not-found")
    answer = gateway.client.delete("/v1/kept/unsure?datasets=true").json()
    assert (answer["images"], answer["datasets"], answer["datasets_removed"]) == (0, ["frozen"], True)
    assert gateway.store.datasets.names() == []


def test_a_copy_that_somebody_else_removes_meanwhile_is_no_error(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
):
    keep(gateway)
    freeze(gateway, "frozen", "mnist-5k")
    delete = gateway.parts.store.datasets.delete
    monkeypatch.setattr(
        gateway.parts.store.datasets,
        "delete",
        lambda name: (gateway.store.datasets.delete(name), delete(name)),
    )
    assert gateway.client.delete("/v1/kept/unsure?datasets=true").json()["datasets"] == ["frozen"]


def test_a_collection_that_goes_on_being_kept_is_said_to(gateway: InProcessGateway):
    keep(gateway)
    gateway.store.students.set_traffic(TrafficPolicy(keeping=Keeping(collection="unsure")))
    assert gateway.client.delete("/v1/kept/unsure").json()["still_kept"] is True


def test_images_that_the_student_was_not_sure_of_are_kept_as_it_saw_them(gateway: InProcessGateway):
    """No teacher answers here: the image is escalated, and kept, all the same."""
    gateway.promote("wren-1")
    policy = {"cascade": {"threshold": 1.0, "deadline_ms": 20}, "keeping": {"collection": "seen"}}
    assert gateway.client.put("/v1/traffic", json=policy).status_code == 200
    sent = [image_file(seed=seed) for seed in (3, 4, 3)]
    for image in sent:
        assert gateway.client.post("/v1/predictions", content=image).status_code == 200
    until = time.monotonic() + 30
    while gateway.store.kept.list() == [] or gateway.store.kept.show("seen").images < 2:
        assert time.monotonic() < until
        time.sleep(0.01)
    shown = gateway.client.get("/v1/kept/seen").json()
    assert (shown["images"], shown["escalated"], shown["disagreed"]) == (2, 2, 0)
    decoded = {np.asarray(Image.open(io.BytesIO(image)).convert("L")).tobytes() for image in sent}
    kept = gateway.store.kept.load("seen", DIGIT_INPUT, DIGITS)
    assert {image.tobytes() for image in kept} == decoded


def test_without_consent_an_escalated_image_is_not_kept(gateway: InProcessGateway):
    gateway.promote("wren-1")
    gateway.client.put("/v1/traffic", json={"cascade": {"threshold": 1.0, "deadline_ms": 20}})
    for seed in range(3):
        assert gateway.client.post("/v1/predictions", content=image_file(seed=seed)).status_code == 200
    assert not (gateway.store.root / "kept").exists()
