"""Teachers from outside by `POST /v1/teachers`, each distilled through the API: all processes are real.

The server of the Open Inference Protocol is a stub of it; a real MLServer is asked in tests/contract.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from numpy.typing import NDArray

from shared.artefacts.store import ArtefactStore
from shared.client import Client
from shared.contracts.architectures import Mlp
from shared.contracts.findings import TeacherCheckOrder
from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.jobs import JobState
from shared.contracts.reports import DistillationReport, TeacherCheckReport
from shared.distillation.export import export_onnx
from shared.models.checkpoints import load_into
from shared.models.network import Network
from tests.support.distilling import SHAPES, shapes
from tests.support.gateway_process import GatewayProcess
from tests.support.oip_server import Stub, stub_server
from tests.support.redis_server import RedisServer
from tests.support.teachers import teacher_process
from tests.support.warm_jobs import warm_jobs
from tests.support.worker_process import WorkerProcess

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

ReportT = TypeVar("ReportT")
PREPROCESSING = Preprocessing(input=ImageInput(height=6, width=5, channels=1), mean=(0.5,), std=(0.25,))
OURS = Network(Mlp(hidden_units=(32,)), PREPROCESSING.input, len(SHAPES))
DATASET = {"train": shapes(400, 1), "validation": shapes(200, 2), "test": shapes(400, 3)}


def learned(net: torch.nn.Module, side: int | None = None, *, channels: int = 1) -> torch.nn.Module:
    """Return the net after some steps on the training images, normalised and resized as it will see them."""
    pixels = torch.from_numpy(DATASET["train"].images).float().movedim(-1, 1)
    if side is not None:
        pixels = torch.nn.functional.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
    images = ((pixels / 255 - 0.5) / 0.25).expand(-1, channels, -1, -1)
    labels = torch.from_numpy(DATASET["train"].labels)
    adam = torch.optim.Adam(net.train().parameters(), lr=5e-3)
    for _ in range(60):
        adam.zero_grad()
        answer = net(images)
        logits = answer if isinstance(answer, torch.Tensor) else answer.logits
        torch.nn.functional.cross_entropy(logits, labels).backward()
        adam.step()
    return net.eval()


class Stack:
    """Redis, gateway, worker, teacher, and a server of the Open Inference Protocol."""

    def __init__(self, gateway: str, store: ArtefactStore, oip: str, worker: WorkerProcess) -> None:
        self.client = Client(gateway)
        self.store, self.oip, self.worker = store, oip, worker

    def add(self, name: str, source: dict[str, Any], files: dict[str, bytes] | None = None) -> str:
        """Add a teacher; return the id of its job."""
        order = {"name": name, "dataset": "shapes", "source": source}
        return self.client.add_teacher(json.dumps(order).encode(), files).id

    def distil(self, teacher: str) -> str:
        """Order a small student of the teacher; return the id of its job."""
        order = {
            "kind": "distillation", "name": f"of-{teacher}", "teacher": teacher, "dataset": "shapes",
            "student": {"network": {"architecture": "mlp", "hidden_units": [16]}},
            "objective": {"temperature": 2}, "seeds": [0, 1],
            "budget": {"epochs": 2, "learning_rate": 0.02, "batch_size": 32},
        }  # fmt: skip
        return self.client.submit(json.dumps(order).encode()).id

    def report(self, job: str, kind: type[ReportT]) -> ReportT:
        """Wait for the end of a job and return its report."""
        ended = self.client.wait(job)
        assert ended.state is JobState.SUCCEEDED, (ended.failure, self.worker.log.read_text()[-4000:])
        report = self.client.report(job)
        assert isinstance(report, kind)
        return report


@pytest.fixture(scope="module")
def stack(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    redis_server.flush()
    state_dir = tmp_path_factory.mktemp("foreign")
    store = ArtefactStore(state_dir / "store")
    store.datasets.put("shapes", DATASET, classes=SHAPES, source="made up")
    allowed = {"TEACHER_OIP_HOSTS": "127.0.0.1"}
    with (
        pytest.MonkeyPatch.context() as patch,
        stub_server() as (oip, stub),
        warm_jobs(state_dir, "transformers.models.vit.modeling_vit") as module,
    ):
        patch.setenv("TEACHER_OIP_HOSTS", "127.0.0.1")
        answer_as(stub, learned(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(30, 4))))
        with teacher_process(state_dir, **allowed) as teacher_url:
            patch.setenv("TEACHER_URL", teacher_url)
            gateway = GatewayProcess(state_dir, redis_server.url, TEACHER_URL=teacher_url, **allowed).start()
            worker = WorkerProcess(
                redis_server.url, state_dir, training_module=module, threads=1, lease_s=10, concurrency=2
            ).wait_until_ready()
            stack = Stack(gateway.url, store, oip, worker)
            yield stack
            stack.client.close()
            worker.close()
            gateway.stop()


def answer_as(stub: Stub, net: torch.nn.Module) -> None:
    """Let the stub answer with a net."""

    def infer(pixels: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            answer: NDArray[Any] = net(torch.tensor(pixels)).numpy()
        return answer

    stub.infer = infer  # type: ignore[method-assign]


def hugging_face_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a small ViT that learned the shapes, as its owner would send them."""
    import transformers

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=12,
        patch_size=6, num_channels=3, id2label=dict(enumerate(SHAPES)),
    )  # fmt: skip
    learned(transformers.ViTForImageClassification(config), 12, channels=3).save_pretrained(folder)
    preprocessor = {
        "size": {"height": 12, "width": 12}, "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.25] * 3,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    names = ("config.json", "model.safetensors", "preprocessor_config.json")
    return {name: (folder / name).read_bytes() for name in names}


def onnx_files(folder: Path) -> dict[str, bytes]:
    """Return one of ours as it is served: pixels in, logits and probabilities out."""
    net = learned(load_into(OURS.module(), OURS.initial(0)))
    export_onnx(net, PREPROCESSING, SHAPES, folder / "model.onnx")
    return {"model.onnx": (folder / "model.onnx").read_bytes(), "labels.txt": "\n".join(SHAPES).encode()}


@dataclass(frozen=True)
class Brought:
    """A teacher from outside: what its import and its student's job reported."""

    tried: TeacherCheckReport
    distilled: DistillationReport


@pytest.fixture(scope="module")
def brought(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Brought]:
    """Add and distil all of them, as many at a time as the worker takes."""
    folder = tmp_path_factory.mktemp("files")
    server = {"url": stack.oip, "model": "shapes", "classes": SHAPES, "mean": [0.5], "std": [0.25]}
    adding = {
        "huggingface": stack.add("huggingface", {"kind": "transformers"}, hugging_face_files(folder)),
        "graph": stack.add("graph", {"kind": "onnx", "output": "logits"}, onnx_files(folder)),
        "server": stack.add("server", {"kind": "oip", **server}),
    }
    tried = {name: stack.report(job, TeacherCheckReport) for name, job in adding.items()}
    together = stack.add("together", {"kind": "ensemble", "members": list(tried)})
    distilling = {name: stack.distil(name) for name in tried}
    tried["together"] = stack.report(together, TeacherCheckReport)
    distilling["together"] = stack.distil("together")
    return {
        name: Brought(tried[name], stack.report(job, DistillationReport)) for name, job in distilling.items()
    }


@pytest.mark.parametrize("name", ["huggingface", "graph", "server", "together"])
def test_a_teacher_from_outside_is_added_tried_and_distilled_through_the_api(
    stack: Stack, brought: dict[str, Brought], name: str
):
    tried, report = brought[name].tried, brought[name].distilled
    assert not [one for one in tried.findings if one.outcome == "failed"]
    assert tried.accuracy is not None
    assert tried.accuracy > 0.8, tried.findings
    assert report.teacher_digest == tried.teacher_digest == stack.store.teachers.current(name).digest
    assert report.pair is not None
    # The service answers as the import's own process did, about the same images.
    assert report.pair.teacher_accuracy == pytest.approx(tried.accuracy, abs=0.011)
    assert report.taught.accuracy > 0.6
    assert report.cost.teacher_rows == 400 + 200 + 400
    assert stack.client.student(report.student_version).teacher == name


def test_what_was_uploaded_is_gone(stack: Stack, brought: dict[str, Brought]):
    assert brought
    assert list((stack.store.root / "incoming").iterdir()) == []


def test_what_a_server_hides_is_not_counted(brought: dict[str, Brought]):
    parameters = {name: one.distilled.teacher_parameters for name, one in brought.items()}
    assert parameters["server"] is parameters["together"] is None
    scale_and_offset = 2
    assert parameters["graph"] == OURS.parameters + scale_and_offset


def test_the_list_about_a_teacher_that_answers_comes_by_the_api_too(
    stack: Stack, brought: dict[str, Brought]
):
    assert "server" in brought
    order = TeacherCheckOrder(dataset="shapes", claimed_accuracy=1.0)
    report = stack.report(stack.client.check_teacher("server", order).id, TeacherCheckReport)
    failed = [one for one in report.findings if one.outcome == "failed"]
    assert [one.check for one in failed] == ["accuracy"]
    assert "100.0 % is claimed" in failed[0].detail
