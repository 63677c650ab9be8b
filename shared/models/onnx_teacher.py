"""A teacher that is an ONNX graph, on ONNX Runtime: on the CPU, or on CUDA where that is built in."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import onnxruntime
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from shared.contracts.teachers import Merge, OnnxModel, TeacherDescription
from shared.errors import TeacherAnswerInvalid
from shared.models.ensemble import softened
from shared.models.normalise import need_images
from shared.models.onnx_facts import FATAL_ONLY, open_session
from shared.models.wholes import logits_out, tensor_in

CUDA: Final = "CUDAExecutionProvider"
CPU: Final = "CPUExecutionProvider"

_DTYPES: Final = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
}


class OnnxTeacher:
    """A graph that answers as one member.

    Where the device is CUDA and this build of ONNX Runtime has its provider, images and logits stay on the
    card; where it has not, the graph runs on the CPU, and its logits lie there.

    Args:
        description: of the teacher; its model is an `OnnxModel`.
        path: of the graph, compared with its digest; its tensors lie in this file (`inspect_onnx`).
        device: where it should answer.
        threads: of ONNX Runtime on a CPU; those of torch where left out.

    Raises:
        InvalidModelFiles: ONNX Runtime does not run it.
    """

    elsewhere = False
    merge: Merge = "geometric"

    def __init__(
        self,
        description: TeacherDescription,
        path: Path,
        *,
        device: torch.device | str = "cpu",
        threads: int | None = None,
    ) -> None:
        assert isinstance(description.model, OnnxModel), "told apart by teacher_of"
        self.description = description
        self._model = description.model
        on_card = torch.device(device).type == "cuda" and CUDA in onnxruntime.get_available_providers()
        self.device = torch.device(device) if on_card else torch.device("cpu")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = FATAL_ONLY
        options.intra_op_num_threads = threads or torch.get_num_threads()
        # Threads that wait for work sleep: nets on torch and other sessions want the same cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers: list[Any] = [CPU]
        if on_card:
            # float32 is float32 here: a card's TF32 has the fraction of float16.
            providers = [(CUDA, {"device_id": self.device.index or 0, "use_tf32": 0}), CPU]
        self._session = open_session(path, options, providers)
        if on_card:  # where CUDA fails, ONNX Runtime goes on without it and says so nowhere else
            self.device = self.device if CUDA in self._session.get_providers() else torch.device("cpu")
        self._outputs = {output.name: output for output in self._session.get_outputs()}

    @property
    def most_rows(self) -> int | None:
        """Images of one call where the graph fixes it."""
        return self._model.rows

    def member_logits(
        self, images: UInt8[Tensor, "batch height width channels"]
    ) -> Float[Tensor, "1 batch classes"]:
        """Return the graph's logits, on the device.

        Raises:
            InputMismatch: the images are not of the size and channels that the teacher takes.
            TeacherAnswerInvalid: the graph does not run, or gives no logits for these classes.
        """
        preprocessing = self.description.preprocessing
        whose = f"teacher {self.description.name!r}"
        need_images(images, preprocessing.input, whose)
        with torch.inference_mode():
            batch = tensor_in(images.to(self.device), preprocessing, self._model)
            answers = [
                logits_out(
                    self._run(part, whose),
                    self._model,
                    rows=len(part),
                    classes=len(self.description.classes),
                    whose=whose,
                )[:, :meant]
                for part, meant in _calls(batch, self._model.rows)
            ]
            return torch.cat(answers, dim=1)

    def softened_logits(
        self, images: UInt8[Tensor, "batch height width channels"], *, temperature: float
    ) -> Float[Tensor, "batch classes"]:
        """Return softened logits z/T with zero mean in each row, in float32 on the device.

        Raises:
            InputMismatch: the images are not of the size and channels that the teacher takes.
            InvalidTemperature: T is not a finite number above 0.
            TeacherAnswerInvalid: as `member_logits` raises it.
        """
        return softened(self, images, temperature)

    def _run(self, batch: Tensor, whose: str) -> Tensor:
        try:
            if self.device.type == "cuda":
                return self._run_on_card(batch)
            (answer,) = self._session.run([self._model.output], {self._model.input: batch.numpy()})
        except Exception as error:  # ONNX Runtime has no common error
            reason = " ".join(str(error).split())[:400]
            raise TeacherAnswerInvalid(f"{whose} does not run: {reason}") from error
        return torch.from_numpy(answer)

    def _run_on_card(self, batch: Tensor) -> Tensor:
        """Run on tensors where they lie; the output is made for the classes that are described."""
        output = self._outputs[self._model.output]
        answer = torch.empty(
            (len(batch), len(self.description.classes), *[1] * (len(output.shape) - 2)),
            dtype=_DTYPES[output.type],
            device=self.device,
        )
        # ONNX Runtime has a stream of its own: what torch has begun must be done before it reads.
        torch.cuda.current_stream(self.device).synchronize()
        binding = self._session.io_binding()
        for bind, name, tensor in (
            (binding.bind_input, self._model.input, batch),
            (binding.bind_output, self._model.output, answer),
        ):
            bind(
                name,
                "cuda",
                self.device.index or 0,
                _numpy_type(tensor.dtype),
                list(tensor.shape),
                tensor.data_ptr(),
            )
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return answer


def _calls(batch: Tensor, rows: int | None) -> Sequence[tuple[Tensor, int]]:
    """Return the batches to run, and how many images of each were meant: the last may be filled up."""
    if rows is None:
        return [(batch, len(batch))]
    calls = []
    for part in torch.split(batch, rows):
        missing = rows - len(part)
        full = torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part
        calls.append((full.contiguous(), len(part)))
    return calls


def _numpy_type(dtype: torch.dtype) -> object:
    return torch.empty(0, dtype=dtype).numpy().dtype.type
