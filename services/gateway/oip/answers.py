"""From what the student says of images to the body of an inference answer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from jaxtyping import Float32

from services.gateway.hot.answered import Found
from services.gateway.hot.asked import Asked
from services.gateway.oip.requests import Inference, WantedOutput
from services.gateway.oip.tensors import DATATYPES, LOGITS, PREDICTED, PROBABILITIES, lengthened


class Answer:
    """Writes the answer to one request; fits `hot.asked.Encode`."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self.logits: Float32[np.ndarray, "images classes"] | None = None
        """Set before the answer is written, where they are wanted."""
        self.header_length: int | None = None
        """Bytes of the answer that are JSON, where tensors follow it; known once it is written."""

    def __call__(self, asked: Asked, found: Found) -> bytes:
        """Return the body."""
        student = asked.student
        body: dict[str, Any] = {"model_name": student.card.name, "model_version": student.version}
        if self._inference.id is not None:
            body["id"] = self._inference.id
        body["outputs"] = outputs = []
        binary = []
        for wanted in self._inference.outputs:
            output, data = self._output(wanted, asked, found)
            outputs.append(output)
            binary.append(data)
        text = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        if not any(wanted.binary for wanted in self._inference.outputs):
            return text
        self.header_length = len(text)
        return b"".join((text, *binary))

    def _output(self, wanted: WantedOutput, asked: Asked, found: Found) -> tuple[dict[str, Any], bytes]:
        """Return an output, and what of it follows the JSON."""
        names = asked.student.classes
        if wanted.name == PREDICTED:
            return _texts(wanted, (len(found.order),), [names[ranks[0]] for ranks in found.order])
        if wanted.name == LOGITS:
            assert self.logits is not None  # they were run for
            values = self.logits
        else:
            values = found.probabilities
        if wanted.classes is None:
            return _numbers(wanted, values)
        if wanted.name == PROBABILITIES:
            order: Sequence[Sequence[int]] = found.order
        else:
            order = np.argsort(-values, axis=1, kind="stable").tolist()
        count = min(wanted.classes, len(names))
        texts = [
            f"{row[place]:f}:{place}:{names[place]}"
            for row, ranks in zip(values.tolist(), order, strict=True)
            for place in ranks[:count]
        ]
        return _texts(wanted, (len(values), count), texts)


def _numbers(
    wanted: WantedOutput, values: Float32[np.ndarray, "rows classes"]
) -> tuple[dict[str, Any], bytes]:
    output: dict[str, Any] = {
        "name": wanted.name,
        "datatype": DATATYPES[wanted.name],
        "shape": values.shape,
    }
    if not wanted.binary:
        return output | {"data": np.ascontiguousarray(values).reshape(-1)}, b""
    data = values.astype("<f4", copy=False).tobytes()
    return output | {"parameters": {"binary_data_size": len(data)}}, data


def _texts(wanted: WantedOutput, shape: tuple[int, ...], texts: list[str]) -> tuple[dict[str, Any], bytes]:
    output: dict[str, Any] = {"name": wanted.name, "datatype": "BYTES", "shape": shape}
    if not wanted.binary:
        return output | {"data": texts}, b""
    data = lengthened([text.encode() for text in texts])
    return output | {"parameters": {"binary_data_size": len(data)}}, data
