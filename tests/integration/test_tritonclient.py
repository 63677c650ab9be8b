"""Triton's own client against a gateway as users run it: sync and asyncio, JSON and binary."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from shared.artefacts.store import ArtefactStore
from shared.serving.session import StudentSession
from tests.support.gateway_in_process import image_file
from tests.support.gateway_process import GatewayProcess
from tests.support.oip_requests import digits
from tests.support.student_bundles import mlp_onnx, write_bundle

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtefactStore:
    store = ArtefactStore(tmp_path_factory.mktemp("gateway") / "store")
    for version, seed in {"digits-1": 1, "digits-2": 2}.items():
        store.students.publish(version, lambda at, v=version, s=seed: write_bundle(at, v, mlp_onnx(seed=s)))
    store.students.promote("digits-1")
    return store


@pytest.fixture(scope="module")
def student(store: ArtefactStore) -> StudentSession:
    """The live student, in this process."""
    return StudentSession.load(store.students.file("digits-1", "card.json").parent)


@pytest.fixture(scope="module")
def address(store: ArtefactStore) -> Iterator[str]:
    nowhere = "redis://127.0.0.1:1/0"
    gateway = GatewayProcess(store.root.parent, nowhere).start()
    yield gateway.url.removeprefix("http://")
    assert gateway.stop() == 0


@pytest.fixture
def client(address: str) -> Iterator[triton.InferenceServerClient]:
    found = triton.InferenceServerClient(address, concurrency=4)
    yield found
    found.close()


def pixels(images: np.ndarray, *, binary: bool = True) -> list[triton.InferInput]:
    tensor = triton.InferInput("images", images.shape, "UINT8")
    tensor.set_data_from_numpy(images, binary_data=binary)
    return [tensor]


def encoded(files: list[bytes], *, binary: bool = True) -> list[triton.InferInput]:
    tensor = triton.InferInput("encoded", [len(files)], "BYTES")
    sent = files if binary else [base64.b64encode(file) for file in files]
    tensor.set_data_from_numpy(np.array(sent, dtype=np.object_), binary_data=binary)
    return [tensor]


# --- what the server says ---


def test_the_client_finds_the_server_and_its_model(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "digits-2")
    assert not client.is_model_ready("digits", "digits-9")
    assert not client.is_model_ready("nobody")
    assert client.get_server_metadata()["extensions"] == ["classification", "binary_tensor_data"]
    described = client.get_model_metadata("digits")
    assert sorted(described["versions"]) == ["digits-1", "digits-2"]
    assert [tensor["name"] for tensor in described["outputs"]] == ["probabilities", "logits", "predicted"]


# --- inference ---


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("back", [True, False], ids=["binary back", "json back"])
def test_pixels_are_answered_with_every_output(client, student, binary, back):
    images = digits(5)
    outputs = [
        triton.InferRequestedOutput(name, binary_data=back)
        for name in ("probabilities", "predicted", "logits")
    ]
    found = client.infer("digits", pixels(images, binary=binary), outputs=outputs, request_id="seven")
    logits, probabilities = student.run(images)
    np.testing.assert_allclose(found.as_numpy("probabilities"), probabilities, atol=1e-6)
    np.testing.assert_allclose(found.as_numpy("logits"), logits, atol=1e-5)
    names = [name.decode() if back else name for name in found.as_numpy("predicted")]
    assert names == [student.classes[best] for best in probabilities.argmax(axis=1)]
    answer = found.get_response()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("seven", "digits", "digits-1")


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "base64"])
def test_encoded_images_are_answered(client, student, binary):
    files = [image_file(seed=seed) for seed in range(3)]
    found = client.infer("digits", encoded(files, binary=binary)).as_numpy("probabilities")
    images = np.concatenate([digits(1, seed=seed) for seed in range(3)])
    np.testing.assert_allclose(found, student.probabilities(images), atol=1e-6)


def test_classes_are_ranked_with_their_names(client, student):
    images = digits(2)
    output = triton.InferRequestedOutput("probabilities", class_count=2)
    found = client.infer("digits", pixels(images), outputs=[output]).as_numpy("probabilities")
    assert found.shape == (2, 2)
    for row, texts in zip(student.probabilities(images), found, strict=True):
        ranks = np.argsort(-row)[:2]
        assert [text.decode().split(":")[1:] for text in texts] == [[str(i), str(i)] for i in ranks]
        assert float(texts[0].split(b":")[0]) == pytest.approx(row[ranks[0]], abs=1e-5)


def test_a_version_is_asked_by_its_name(client):
    images = digits(1)
    answers = {
        version: client.infer("digits", pixels(images), model_version=version).get_response()["model_version"]
        for version in ("", "digits-1", "digits-2")
    }
    assert answers == {"": "digits-1", "digits-1": "digits-1", "digits-2": "digits-2"}


@pytest.mark.parametrize("there", [None, "gzip", "deflate"])
@pytest.mark.parametrize("back", [None, "gzip", "deflate"])
def test_bodies_may_be_compressed_both_ways(client, student, there, back):
    images = digits(60)
    found = client.infer(
        "digits", pixels(images), request_compression_algorithm=there, response_compression_algorithm=back
    )
    np.testing.assert_allclose(found.as_numpy("probabilities"), student.probabilities(images), atol=1e-6)


def test_many_requests_at_a_time_keep_their_answers(client, student):
    asked = [
        (seed, client.async_infer("digits", pixels(digits(2, seed=seed)), request_id=str(seed)))
        for seed in range(20)
    ]
    for seed, pending in asked:
        found = pending.get_result()
        assert found.get_response()["id"] == str(seed)
        expected = student.probabilities(digits(2, seed=seed))
        np.testing.assert_allclose(found.as_numpy("probabilities"), expected, atol=1e-6)


# --- refusals ---


def wrong_type() -> list[triton.InferInput]:
    tensor = triton.InferInput("images", [1, 28, 28, 1], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 28, 28, 1), np.float32))
    return [tensor]


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "another model": ({"model_name": "nobody"}, "404", "there is no model 'nobody'"),
    "another version": ({"model_version": "digits-9"}, "404", "no version 'digits-9'"),
    "another shape": ({"inputs": pixels(digits()[:, 1:])}, "400", "[-1, 28, 28, 1]"),
    "another type": ({"inputs": wrong_type()}, "400", "UINT8"),
    "another temperature": ({"parameters": {"temperature": 4}}, "400", "ask the teacher"),
    "another output": ({"outputs": [triton.InferRequestedOutput("scores")]}, "400", "'scores'"),
    "too many images": ({"inputs": pixels(digits(65))}, "400", "64"),
    "no image": ({"inputs": encoded([b"GIF89a"])}, "400", "encoded[0]"),
    "a deadline that is none": ({"headers": {"X-Deadline-Ms": "0"}}, "400", "X-Deadline-Ms"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_client_shows_what_was_wrong(client, case):
    change, status, words = REFUSED[case]
    call = {"model_name": "digits", "inputs": pixels(digits())} | change
    with pytest.raises(InferenceServerException) as refusal:
        client.infer(**call)
    assert refusal.value.status() == status
    assert words in refusal.value.message()


# --- asyncio ---


@asynccontextmanager
async def asking(address: str) -> AsyncIterator[triton_aio.InferenceServerClient]:
    async with triton_aio.InferenceServerClient(address) as client:
        yield client


def with_aio(address: str, work: Callable[[triton_aio.InferenceServerClient], Any]) -> Any:
    async def run() -> Any:
        async with asking(address) as client:
            return await work(client)

    return asyncio.run(run())


def test_the_asyncio_client_finds_the_server_and_its_model(address):
    async def look(client: triton_aio.InferenceServerClient) -> list[Any]:
        described = await client.get_model_metadata("digits", "digits-2")
        return [
            await client.is_server_live(),
            await client.is_server_ready(),
            await client.is_model_ready("digits"),
            (await client.get_server_metadata())["name"],
            described["parameters"]["version"],
        ]

    assert with_aio(address, look) == [True, True, True, "imago", "digits-2"]


def test_the_asyncio_client_asks_many_at_a_time(address, student):
    async def ask_all(client: triton_aio.InferenceServerClient) -> list[Any]:
        return await asyncio.gather(
            *(
                client.infer(
                    "digits", pixels(digits(2, seed=seed), binary=bool(seed % 2)), request_id=str(seed)
                )
                for seed in range(20)
            ),
            client.infer("digits", encoded([image_file(seed=0)])),
        )

    *found, of_file = with_aio(address, ask_all)
    for seed, one in enumerate(found):
        assert one.get_response()["id"] == str(seed)
        expected = student.probabilities(digits(2, seed=seed))
        np.testing.assert_allclose(one.as_numpy("probabilities"), expected, atol=1e-6)
    expected = student.probabilities(digits(1, seed=0))
    np.testing.assert_allclose(of_file.as_numpy("probabilities"), expected, atol=1e-6)


def test_the_asyncio_client_shows_what_was_wrong(address):
    async def ask(client: triton_aio.InferenceServerClient) -> Any:
        return await client.infer("nobody", pixels(digits()))

    with pytest.raises(InferenceServerException, match="there is no model 'nobody'"):
        with_aio(address, ask)
