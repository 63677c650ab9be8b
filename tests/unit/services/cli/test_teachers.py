"""`imago teachers`: what a folder is taken for, what is sent, what is printed, how it leaves."""

import json
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import save

from services.cli.app import main
from services.cli.commands.common import Outside
from services.cli.errors import CommandFailed
from services.cli.model_folders import recognise
from shared.contracts.architectures import Mlp
from shared.contracts.findings import Finding
from shared.contracts.jobs import JobState
from shared.contracts.specs import TeacherImportSpec
from tests.support.fake_gateway import Brought, FakeGateway
from tests.support.jobs import teacher_description

WEIGHTS = save({"w": np.zeros((4, 4), np.float32)})
VIT = {"config.json": b'{"model_type": "vit"}', "model.safetensors": WEIGHTS}


def graph() -> bytes:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "y")]
    node = helper.make_node("Identity", ["x"], ["y"])
    made: bytes = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:])).SerializeToString()
    return made


def folder(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir(exist_ok=True)
    for name, data in files.items():
        (path / name).write_bytes(data)
    return path


Imago = Callable[..., tuple[int, str, str]]


@pytest.fixture
def gateway() -> FakeGateway:
    return FakeGateway()


@pytest.fixture
def imago(
    gateway: FakeGateway, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Imago:
    """Run a command in this process; return how it left, and what it printed."""
    monkeypatch.setenv("IMAGO_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("IMAGO_GATEWAY_URL", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(list(map(str, arguments)), Outside(transport=gateway.transport()))
        printed = capsys.readouterr()
        return int(left.value.code or 0), printed.out, printed.err

    return run


def sent(gateway: FakeGateway) -> tuple[dict[str, Any], Brought]:
    """Return the source that was sent, as the contract reads it, and what it came with."""
    assert gateway.brought is not None
    spec = TeacherImportSpec.model_validate_json(gateway.brought.order)
    return spec.source.model_dump(mode="json", exclude_unset=True), gateway.brought


# --- what a folder is taken for ----------------------------------------------------------------------------


def test_a_hugging_face_folder_is_sent_without_what_can_run(
    imago: Imago, gateway: FakeGateway, tmp_path: Path
):
    rest = {"README.md": b"#", "training_args.bin": pickle.dumps(1), "modeling_vit.py": b"import os"}
    status, out, _ = imago("teachers", "add", "net", "--folder", folder(tmp_path / "vit", VIT | rest))
    assert status == 0
    assert "taken for a Hugging Face folder of a vit" in out
    source, brought = sent(gateway)
    assert source == {"kind": "transformers"}
    assert brought.files == VIT


def test_a_folder_of_timm_brings_its_name_and_normalisation(
    imago: Imago, gateway: FakeGateway, tmp_path: Path
):
    preset = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "interpolation": "bicubic", "url": "x"}
    config = json.dumps({"architecture": "resnet18", "pretrained_cfg": preset}).encode()
    files = {"config.json": config, "model.safetensors": WEIGHTS, "pytorch_model.bin": b"x"}
    imago("teachers", "add", "net", "--folder", folder(tmp_path / "timm", files))
    source, brought = sent(gateway)
    assert source == {
        "kind": "timm", "model": "resnet18", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2],
        "resample": "bicubic",
    }  # fmt: skip
    assert brought.files.keys() == {"model.safetensors", "config.json"}


def test_a_teacher_of_ours_brings_all_that_its_description_says(
    imago: Imago, gateway: FakeGateway, tmp_path: Path
):
    described = teacher_description(architecture=Mlp(hidden_units=(30,)), classes=("a", "b"))
    files = {"teacher.json": described.model_dump_json().encode(), "model.safetensors": WEIGHTS}
    imago("teachers", "add", "net", "--folder", folder(tmp_path / "ours", files))
    source, brought = sent(gateway)
    assert source["architecture"]["hidden_units"] == [30]
    assert (source["classes"], source["input"]["height"]) == (["a", "b"], 28)
    assert brought.files == {"model.safetensors": WEIGHTS}


def test_weights_of_a_registered_net_need_its_name(imago: Imago, gateway: FakeGateway, tmp_path: Path):
    path = folder(tmp_path / "net", {"best.safetensors": WEIGHTS, "labels.txt": b"a\nb\n"})
    status, _, err = imago("teachers", "add", "net", "--folder", path)
    assert (status, "--architecture" in err) == (1, True)
    imago("teachers", "add", "net", "--folder", path, "--architecture", "resnet20", "--input", "32x32x3")
    source, brought = sent(gateway)
    assert source["architecture"] == {"architecture": "resnet20"}
    assert source["input"] == {"height": 32, "width": 32, "channels": 3}
    assert brought.files == {"model.safetensors": WEIGHTS, "labels.txt": b"a\nb\n"}


def test_a_folder_with_an_onnx_file_is_taken_for_one(tmp_path: Path):
    files = {
        "resnet.onnx": graph(),
        "preprocessor_config.json": b"{}",
        "config.json": b'{"model_type": "vit"}',
    }
    found = recognise(folder(tmp_path / "onnx", files))
    assert found.kind == "onnx"
    assert found.files.keys() == {"model.onnx", "config.json", "preprocessor_config.json"}


def test_an_ensemble_of_ours_is_told_to_be_brought_one_by_one(tmp_path: Path):
    described = teacher_description(members=3).model_dump_json().encode()
    with pytest.raises(CommandFailed, match="not one net"):
        recognise(folder(tmp_path / "ours", {"teacher.json": described, "model.safetensors": WEIGHTS}))


REFUSED = {
    "pickles alone": ({"config.json": b'{"model_type": "vit"}', "pytorch_model.bin": b"x"}, "pickle-refused"),
    "a pickle under another name": (VIT | {"model.safetensors": pickle.dumps([1.0] * 9)}, "pickle-refused"),
    "a cut file": (VIT | {"model.safetensors": WEIGHTS[:-1]}, "invalid-model-files"),
    "nothing": ({"notes.txt": b""}, "model-not-recognised"),
    "broken words": (VIT | {"config.json": b"{"}, "invalid-model-files"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_model_is_told_before_anything_is_sent(
    imago: Imago, gateway: FakeGateway, tmp_path: Path, case: str
):
    files, code = REFUSED[case]
    status, _, err = imago("teachers", "add", "net", "--folder", folder(tmp_path / "bad", files))
    assert status == 1
    assert err.startswith(f"error: {code}: ")
    assert gateway.seen == []


def test_a_pickle_is_told_with_the_way_to_convert_it(imago: Imago, tmp_path: Path):
    weights = tmp_path / "best.pth"
    weights.write_bytes(b"x")
    status, _, err = imago("teachers", "add", "net", "--timm", "resnet18", "--weights", weights)
    assert status == 1
    assert "safetensors.torch.save_file(model.state_dict()" in err


# --- other sources -----------------------------------------------------------------------------------------


def test_weights_of_timm_and_what_the_owner_says(imago: Imago, gateway: FakeGateway, tmp_path: Path):
    weights = (
        folder(
            tmp_path / "w", {"r18.safetensors": WEIGHTS, "classes.txt": "\ufeffcat\r\ndog\r\n\r\n".encode()}
        )
        / "r18.safetensors"
    )
    imago(
        "teachers", "add", "net", "--timm", "resnet18", "--weights", weights, "--classes",
        f"@{tmp_path / 'w' / 'classes.txt'}", "--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25",
        "--resample", "bicubic", "--precision", "bfloat16", "--dataset", "pets", "--claimed-accuracy", "0.93",
    )  # fmt: skip
    source, brought = sent(gateway)
    assert source == {
        "kind": "timm", "model": "resnet18", "classes": ["cat", "dog"], "mean": [0.5] * 3, "std": [0.25] * 3,
        "resample": "bicubic", "precision": "bfloat16",
    }  # fmt: skip
    assert brought.files == {"model.safetensors": WEIGHTS}
    order = json.loads(brought.order)
    assert (order["name"], order["dataset"], order["claimed_accuracy"]) == ("net", "pets", 0.93)


def test_an_onnx_file_goes_under_the_name_that_is_taken(imago: Imago, gateway: FakeGateway, tmp_path: Path):
    path = folder(tmp_path / "o", {"net-v3.onnx": graph(), "labels.txt": b"a\nb"}) / "net-v3.onnx"
    imago("teachers", "add", "net", "--onnx", path, "--output", "y", "--answers", "probabilities")
    source, brought = sent(gateway)
    assert source == {"kind": "onnx", "output": "y", "answers": "probabilities"}
    assert brought.files == {"model.onnx": graph(), "labels.txt": b"a\nb"}


def test_a_server_and_an_ensemble_need_no_files(imago: Imago, gateway: FakeGateway):
    imago("teachers", "add", "net", "--oip", "http://triton:8000", "--model", "digits", "--classes", "a, b")
    source, brought = sent(gateway)
    assert source == {"kind": "oip", "url": "http://triton:8000", "model": "digits", "classes": ["a", "b"]}
    assert brought.files == {}
    imago("teachers", "add", "both", "--ensemble", "one,two", "--merge", "arithmetic")
    source, _ = sent(gateway)
    assert source == {"kind": "ensemble", "members": ["one", "two"], "merge": "arithmetic"}


@pytest.mark.parametrize(
    "options",
    [
        (), ("--onnx", "x.onnx", "--oip", "http://a"), ("--oip", "http://a"), ("--timm", "resnet18"),
        ("--ensemble", "a,b", "--model", "m"), ("--ensemble", "a,b", "--input", "32"),
        ("--ensemble", "a,b", "--mean", "grey"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_options_that_do_not_go_together_are_misspelt(
    imago: Imago,
    gateway: FakeGateway,
    options: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.onnx").write_bytes(graph())
    assert imago("teachers", "add", "net", *options)[0] == 2
    assert gateway.seen == []


# --- the hub -----------------------------------------------------------------------------------------------


def hub(monkeypatch: pytest.MonkeyPatch, answer: Callable[..., str]) -> None:
    library = types.ModuleType("huggingface_hub")
    library.snapshot_download = answer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", library)


def test_a_model_of_the_hub_is_fetched_to_here_and_sent(
    imago: Imago, gateway: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = {}

    def answer(repository: str, **options: object) -> str:
        asked.update(options, repository=repository)
        return str(folder(tmp_path / "snapshot", VIT))

    hub(monkeypatch, answer)
    assert imago("teachers", "add", "net", "--hub", "org/vit@v2")[0] == 0
    assert sent(gateway)[1].files == VIT
    assert (asked["repository"], asked["revision"]) == ("org/vit", "v2")
    assert not any(
        "bin" in pattern or "py" in pattern.removesuffix(".py") for pattern in asked["allow_patterns"]
    )


def test_a_hub_that_does_not_answer_and_a_library_that_is_missing_are_told(
    imago: Imago, monkeypatch: pytest.MonkeyPatch
):
    def away(*_: object, **__: object) -> str:
        raise OSError("no route to the hub")

    hub(monkeypatch, away)
    status, _, err = imago("teachers", "add", "net", "--hub", "org/vit")
    assert (status, "hub-not-fetched" in err, "no route to the hub" in err) == (1, True, True)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    status, _, err = imago("teachers", "add", "net", "--hub", "org/vit")
    assert (status, "pip install imago[hub]" in err) == (1, True)


# --- the list ----------------------------------------------------------------------------------------------


def test_a_check_prints_its_list_and_leaves_with_zero(imago: Imago, gateway: FakeGateway):
    status, out, err = imago("teachers", "check", "net", "--dataset", "digits", "--claimed-accuracy", "0.97")
    assert (status, err) == (0, "")
    asked = json.loads(gateway.seen[0].content)
    assert asked == {"dataset": "digits", "claimed_accuracy": 0.97}
    listed = [" ".join(line.split()) for line in out.splitlines()]
    assert "ok class names the same ten classes in the same order" in listed
    assert "warning confidence the mean probability of the largest is 0.999" in listed
    assert "→ Take T = 4 or more." in out
    assert "asked about 500 images; 96.40% right; suggested T 4" in out


def test_a_check_that_failed_is_told_and_leaves_with_one(imago: Imago, gateway: FakeGateway):
    bad = Finding(check="finite logits", outcome="failed", detail="rows 3, 9 are NaN", advice="Look there.")
    gateway.findings = (bad,)
    status, out, err = imago("teachers", "check", "net", "--dataset", "digits")
    assert status == 1
    assert "FAILED  finite logits  rows 3, 9 are NaN" in out
    assert err.startswith("error: teacher-check-failed: teacher 'net' failed: finite logits.")


def test_an_import_that_fails_shows_the_list_that_it_left(imago: Imago, gateway: FakeGateway):
    gateway.ends_as = JobState.FAILED
    gateway.findings = (Finding(check="class names", outcome="failed", detail="another order"),)
    status, out, err = imago("teachers", "add", "both", "--ensemble", "a,b")
    assert status == 1
    assert "FAILED  class names  another order" in out
    assert "j-check failed" in err


def test_an_import_that_fails_before_it_looked_says_why(imago: Imago, gateway: FakeGateway):
    gateway.ends_as, gateway.findings = JobState.FAILED, None
    status, _, err = imago("teachers", "add", "both", "--ensemble", "a,b")
    assert status == 1
    assert "diverged" in err


def test_as_json_the_list_is_the_report_and_nothing_else(imago: Imago):
    status, out, _ = imago("teachers", "check", "net", "--dataset", "digits", "--json")
    assert status == 0
    assert json.loads(out)["findings"][1]["advice"] == "Take T = 4 or more."


def test_without_watching_the_job_is_named(imago: Imago, gateway: FakeGateway, tmp_path: Path):
    path = folder(tmp_path / "vit", VIT)
    status, out, _ = imago("teachers", "add", "net", "--folder", path, "--no-watch")
    assert (status, out.splitlines()[-1]) == (0, "j-check")
    assert len(gateway.seen) == 1


def test_a_job_without_a_dataset_is_shown(imago: Imago):
    imago("teachers", "add", "both", "--ensemble", "a,b", "--no-watch")
    out = imago("jobs", "show", "j-check")[1]
    assert "teacher_import 'both'" in out
    assert "None" not in out


def test_a_teacher_is_shown(imago: Imago):
    status, out, _ = imago("teachers", "show", "mnist-teacher")
    assert status == 0
    assert "1 x mlp" in out
    assert "float32" in out
    assert imago("teachers", "show", "nobody")[0] == 1


def test_an_onnx_model_is_never_loaded_here(tmp_path: Path):
    """A graph that no runtime would take is as good as any other: the worker is the one that runs it."""
    model = onnx.load_from_string(graph())
    model.graph.node[0].op_type = "NoSuchOperator"
    path = folder(tmp_path / "o", {"model.onnx": model.SerializeToString()})
    assert recognise(path).kind == "onnx"
