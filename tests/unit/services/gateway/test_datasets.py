import io
import zipfile

import pytest

from shared.contracts.datasets import DatasetView
from tests.support.gateway_in_process import image_file, refused


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def folders(**classes: int) -> dict[str, bytes]:
    """So many images of noise in a folder a class."""
    return {
        f"{name}/{i}.png": image_file(seed=100 * place + i)
        for place, (name, count) in enumerate(classes.items())
        for i in range(count)
    }


def upload(gateway, data: bytes, *, name="shapes", file="shapes.zip", **fields):
    form = {"name": name, **fields}
    return gateway.client.post("/v1/datasets", data=form, files=[("files", (file, data))])


def test_a_zip_with_a_folder_a_class_becomes_a_dataset(gateway):
    answer = upload(gateway, zipped(folders(round=12, square=12)))
    assert answer.status_code == 201, answer.text
    view = DatasetView.model_validate_json(answer.content)
    assert view.manifest is not None
    assert view.manifest.classes == ("round", "square")
    assert answer.headers["Location"] == "/v1/datasets/shapes"
    assert DatasetView.model_validate_json(gateway.client.get("/v1/datasets/shapes").content) == view
    assert list((gateway.store.root / "uploads").iterdir()) == []


def test_the_same_dataset_sent_again_changes_nothing_and_another_is_refused(gateway):
    first = upload(gateway, zipped(folders(round=12, square=12))).json()
    assert upload(gateway, zipped(folders(round=12, square=12))).json() == first
    refused(upload(gateway, zipped(folders(round=12, other=12))), 409, "dataset-exists")


def test_images_are_resized_where_asked_for(gateway):
    view = upload(gateway, zipped(folders(round=12, square=12)), size="8x10").json()
    assert view["manifest"]["input"] == {"height": 8, "width": 10, "channels": 1}


def test_built_in_datasets_are_listed_with_whether_their_files_are_here(gateway):
    found = {view["name"]: view for view in gateway.client.get("/v1/datasets").json()["datasets"]}
    assert found["mnist"]["builtin"]
    assert not found["mnist"]["available"]
    refused(gateway.client.get("/v1/datasets/nothing"), 404, "dataset-not-found")


def broken_image() -> bytes:
    return zipped(folders(round=12, square=12) | {"round/cut.png": image_file()[:-40]})


BAD = {
    "one class": (lambda: zipped(folders(round=12)), 422, "invalid-dataset", "class"),
    "a broken image, named by file": (broken_image, 422, "invalid-image", "round/cut.png"),
    "no images": (lambda: zipped({"readme.txt": b"nothing"}), 422, "invalid-dataset", ""),
    "no archive": (lambda: b"these are words", 422, "invalid-dataset", "shapes.zip"),
    "half an archive": (lambda: zipped(folders(a=9, b=9))[:-300], 422, "invalid-dataset", ""),
    "nothing": (lambda: b"", 422, "invalid-dataset", ""),
    "an image over the pixel limit": (
        lambda: zipped(folders(a=9, b=9) | {"a/large.png": image_file(1001, 1000)}), 413, "image-too-large",
        "a/large.png",
    ),
    "a path that climbs": (lambda: zipped({"../../up/a.png": image_file()}), 422, "invalid-dataset", ""),
    "over the limit of a body": (lambda: b"x" * 2_000_001, 413, "body-too-large", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_an_upload_that_is_no_dataset_is_refused_and_leaves_nothing_behind(gateway, case):
    make, status, code, names = BAD[case]
    problem = refused(upload(gateway, make()), status, code)
    assert names in problem["detail"]
    assert gateway.client.get("/v1/datasets/shapes").status_code == 404
    assert not list((gateway.store.root / "uploads").glob("*"))


@pytest.mark.parametrize("name", ["", "Shapes", "../up", "a" * 65, "a b"])
def test_a_dataset_needs_a_name_that_is_safe(gateway, name):
    refused(upload(gateway, zipped(folders(a=3, b=3)), name=name), 422, "request-invalid")


@pytest.mark.parametrize("size", ["28", "0x28", "28x", "-1x5", "axb", "٣x٣"])
def test_a_size_that_is_no_size_is_refused(gateway, size):
    refused(upload(gateway, zipped(folders(a=3, b=3)), size=size), 422, "request-invalid")


def test_the_name_of_a_built_in_dataset_is_taken(gateway):
    refused(upload(gateway, zipped(folders(a=9, b=9)), name="mnist"), 409, "dataset-exists")


def test_an_upload_without_files_or_form_is_refused(gateway):
    no_files = gateway.client.post("/v1/datasets", files=[("name", (None, "shapes"))])
    refused(no_files, 422, "request-invalid")
    refused(gateway.client.post("/v1/datasets", json={}), 415, "unsupported-media-type")


def test_names_that_the_client_made_up_touch_no_file(gateway):
    answer = upload(gateway, zipped(folders(a=12, b=12)), file="../../../etc/passwd")
    assert answer.status_code == 201, answer.text
    assert not (gateway.store.root.parent.parent / "etc").exists()


def test_more_uploads_than_are_taken_in_at_a_time_are_told_to_wait(gateway):
    gateway.parts.uploads.total_tokens = 0
    answer = upload(gateway, zipped(folders(a=3, b=3)))
    refused(answer, 503, "queue-full")
    assert answer.headers["Retry-After"] == "5"


def test_a_dataset_that_vanishes_while_all_are_listed_is_left_out(gateway, monkeypatch):
    monkeypatch.setattr(gateway.parts.store.datasets, "names", lambda: ["vanished"])
    listed = gateway.client.get("/v1/datasets")
    assert listed.status_code == 200, listed.text
    assert "mnist-5k" in {view["name"] for view in listed.json()["datasets"]}


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("write", ["_append", "_fresh"])
def test_a_full_disk_is_told_and_leaves_nothing(gateway, monkeypatch, write):
    monkeypatch.setattr(f"services.gateway.uploads.datasets.{write}", full)
    problem = refused(upload(gateway, zipped(folders(round=12, square=12))), 503, "store-full")
    assert "store/datasets" in str(problem["detail"])
    assert list(gateway.store.root.glob("uploads/*")) == []
