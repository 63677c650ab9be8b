"""Files of models that strangers send: each refused, by the gateway or by the job that reads them.

Nothing in them runs, nothing outside is read, and nobody is asked anything over the network: an audit hook
sees every connection, every program and every file that Python opens while they are looked at.
"""

import io
import json
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save

from shared.artefacts.model_files import check_model_folder
from shared.contracts.architectures import Transformers
from shared.contracts.teacher_sources import OnnxSource, SafetensorsSource, SentFiles, TransformersSource
from shared.errors import DistillationError
from tests.support.distilling import SHAPES
from tests.support.importing import NET, SIZE, Place, mine, outcomes
from tests.support.onnx_graphs import linear_graph

pytestmark = pytest.mark.slow

FILES = SentFiles(folder="mine")
Folder = dict[str, bytes]
LOADED = "a name that is a URL"
"""The case that is refused by `transformers` itself."""
_OUTWARD = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec")


class Canary:
    """Creates a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


class Watch:
    """What Python did that a model has no business with; switched on while models are looked at."""

    def __init__(self, secret: Path) -> None:
        self.on = False
        self.seen: list[tuple[str, str]] = []
        self._secret = secret
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        outward = event in _OUTWARD
        read = event == "open" and str(arguments[0]) in (str(self._secret), "/etc/passwd")
        if outward or read or event == "pickle.find_class":
            self.seen.append((event, repr(arguments)[:200]))


def _header(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _tensor(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def _graph(folder: Path, **options: Any) -> bytes:
    return linear_graph(folder / "graph.onnx", **options).read_bytes()


def _changed(folder: Path, change: Callable[[onnx.ModelProto], None]) -> bytes:
    model = onnx.load_model_from_string(_graph(folder))
    change(model)
    return bytes(model.SerializeToString())


def _circle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = model.graph.node[-1].output[0]


def _huge(model: onnx.ModelProto) -> None:
    shape = numpy_helper.from_array(np.array([2**20, 2**20, 2**10], np.int64), "huge")
    model.graph.initializer.append(shape)
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["huge"], ["all"]))
    model.graph.node.insert(1, helper.make_node("ReduceSum", ["all"], ["one"], keepdims=0))
    model.graph.node.append(helper.make_node("Add", [model.graph.node[-1].output[0], "one"], ["last"]))
    model.graph.output[0].name = "last"


def _claims(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [2**40, 2**20]


def _sub_graph(model: onnx.ModelProto) -> None:
    """Put a tensor of another file where only a graph inside a node has it."""
    inner = onnx.TensorProto(name="inner", data_type=TensorProto.FLOAT, dims=[1])
    inner.data_location = TensorProto.EXTERNAL
    entry = inner.external_data.add()
    entry.key, entry.value = "location", "../../../../../../etc/passwd"
    constant = helper.make_node("Constant", [], ["c"], value=inner)
    gives = helper.make_tensor_value_info("c", TensorProto.FLOAT, [1])
    body = helper.make_graph([constant], "body", [], [gives])
    yes = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))
    model.graph.node.insert(0, yes)
    model.graph.node.insert(1, helper.make_node("If", ["yes"], ["x"], then_branch=body, else_branch=body))


def hostile(scratch: Path, canary: Path, place: Path) -> dict[str, tuple[Any, Folder]]:
    """Return sources with the files that are sent for them."""
    payload = pickle.dumps(Canary(canary))
    saved = io.BytesIO()
    torch.save({"w": torch.zeros(2)}, saved)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
    whole = save({"w": np.zeros(4, np.float32)})
    nan = save({name: np.full(shape, np.nan, np.float32) for name, shape in _shapes().items()})
    wrong = save({name: np.zeros(shape, np.int64) for name, shape in _shapes().items()})
    net = SafetensorsSource(files=FILES, architecture=NET)
    graph, folder = OnnxSource(files=FILES), TransformersSource(files=FILES)
    said = mine(Place(place))
    code = {"auto_map": {"AutoModelForImageClassification": "evil--evil.Net"}, "trust_remote_code": True}
    config = {"model_type": "vit", "architectures": ["Evil"], "_name_or_path": "http://127.0.0.1:9/evil"}
    opens = {"architecture": "resnet18", "model_args": {"checkpoint_path": str(scratch / "secret.bin")}}
    fetches = {"model_type": "timm_wrapper", "architecture": "hf-hub:evil/net"}

    def weights(data: bytes) -> tuple[Any, Folder]:
        return net, {"model.safetensors": data}

    def onnx_file(data: bytes) -> tuple[Any, Folder]:
        return graph, {"model.onnx": data}

    def configured(said: dict[str, Any]) -> tuple[Any, Folder]:
        return folder, {"config.json": json.dumps(said).encode(), "model.safetensors": whole}

    def ordered(said: dict[str, Any]) -> tuple[Any, Folder]:
        """Return the same in an order, as if the contract had let it pass."""
        past = Transformers.model_construct(config=said)
        return SafetensorsSource(files=FILES, architecture=past, input=SIZE, classes=SHAPES), {
            "model.safetensors": whole
        }

    return {
        "a pickle called weights": weights(payload),
        "what torch.save writes, called weights": weights(saved.getvalue()),
        "a zip around a pickle, called weights": weights(zipped.getvalue()),
        "a pickle called a graph": onnx_file(payload),
        "a pickle called a config": (folder, {"config.json": payload, "model.safetensors": whole}),
        "pickles and nothing else": (folder, {"config.json": b"{}", "pytorch_model.bin": payload}),
        "weights with a pickle behind": weights(whole + payload),
        "a header without end": weights(_header({}, length=2**63)),
        "a header of 100 MB": weights(_header({}, bytes(2**20), length=100 * 2**20)),
        "a header of many lists": weights(_header(b'{"a":[' + b"[]," * 200_000 + b"[]]}")),
        "a header too deep": weights(_header(b'{"a":' + b"[" * 100_000)),
        "a header that says a thing twice": weights(_header(b'{"a":1,"a":2}')),
        "offsets below nothing": weights(_header({"w": _tensor(-8, 8, [4])}, bytes(16))),
        "offsets that overlap": weights(
            _header({"a": _tensor(0, 8, [2]), "b": _tensor(4, 12, [2])}, bytes(12))
        ),
        "a hole between tensors": weights(
            _header({"a": _tensor(0, 4, [1]), "b": _tensor(8, 12, [1])}, bytes(12))
        ),
        "a shape beyond all": weights(_header({"a": _tensor(0, 16, [2**47, 2**47])}, bytes(16))),
        "a length of true": weights(_header({"a": _tensor(0, 4, [True])}, bytes(4))),
        "weights that are no numbers": (said, {"model.safetensors": nan}),
        "weights of another kind": (said, {"model.safetensors": wrong}),
        "tensors of nobody": (said, {"model.safetensors": whole}),
        "a graph with weights at /etc/passwd": onnx_file(_graph(scratch, external="/etc/passwd")),
        "a graph with weights above": onnx_file(_graph(scratch, external="../../../../../../etc/passwd")),
        "a graph with weights beside": onnx_file(_graph(scratch, external="secret.bin")),
        "weights above, in a graph inside": onnx_file(_changed(scratch, _sub_graph)),
        "an operator of its own": onnx_file(_graph(scratch, operator="Evil", operator_domain="evil.org")),
        "a Python operator": onnx_file(_graph(scratch, operator="PyOp", operator_domain="ai.onnx.contrib")),
        "a graph in a circle": onnx_file(_changed(scratch, _circle)),
        "a tensor of petabytes": onnx_file(_changed(scratch, _huge)),
        "a weight that claims petabytes": onnx_file(_changed(scratch, _claims)),
        "half a graph": onnx_file(_graph(scratch)[:-100]),
        "code of a stranger": (folder, {
            "config.json": json.dumps(config | code).encode(), "model.safetensors": whole,
            "evil.py": b"open(%r, 'w')" % str(canary).encode(),
        }),
        LOADED: configured(config),
        "a net of a hub": configured(fetches),
        "a net of a hub, in an order": ordered(fetches),
        "a net with a pickle of the machine": configured(fetches | opens),
        "a net with a pickle of the machine, in an order": ordered(fetches | opens),
        "kernels of a hub": configured(config | {"attn_implementation": "evil/kernel"}),
        "kernels of a hub, in an order": ordered(config | {"a": [{"_attn_implementation": "evil/kernel"}]}),
        "an index that leads out": (folder, {
            "config.json": json.dumps(config).encode(), "model-00001-of-00001.safetensors": whole,
            "model.safetensors.index.json": json.dumps({"weight_map": {"w": "../../../secret"}}).encode(),
        }),
    }  # fmt: skip


def _shapes() -> dict[str, tuple[int, ...]]:
    return {
        "layers.0.weight": (16, 30),
        "layers.0.bias": (16,),
        "layers.1.weight": (4, 16),
        "layers.1.bias": (4,),
    }


def test_hostile_models_are_refused_and_nothing_of_them_runs(
    tmp_path: Path, sized: Callable[..., bool], told: Callable[..., None]
):
    canary, secret = tmp_path / "canary", tmp_path / "secret.bin"
    secret.write_bytes(bytes(1000))
    cases = hostile(tmp_path, canary, tmp_path / "other")
    if sized(True, False):  # the library takes longer to load than all the rest
        del cases[LOADED]
    watch = Watch(secret)
    refused: dict[str, str] = {}
    wrong: dict[str, str] = {}
    place = Place(tmp_path / "state")
    for name, (source, files) in cases.items():
        folder = place.folder()
        for path in folder.iterdir():
            path.unlink()
        for file, data in files.items():
            (folder / file).write_bytes(data)
        watch.on = True
        try:
            check_model_folder(folder, source.kind)  # as the gateway does
            found = outcomes(place.take(source))
            refused[name] = "a check failed" if "failed" in found else wrong.setdefault(name, repr(found))
        except DistillationError as error:
            refused[name] = error.code
        except Exception as error:  # noqa: BLE001 - told below
            wrong[name] = repr(error)[:300]
        finally:
            watch.on = False
    codes = sorted(set(refused.values()))
    told(
        7,
        f"{len(cases)} hostile files of models",
        f"refused {len(cases) - len(wrong)} with {codes}, otherwise {wrong or 'none'}; "
        f"seen {watch.seen[:3] or 'nothing'}",
        "each a 4xx of the gateway or a failed job with a named code; nothing run, read outside or fetched",
        held=not wrong and not canary.exists() and not watch.seen and not place.store.teachers.names(),
    )
