"""Models that are asked as a whole: what goes into their one tensor, and what comes out of it.

A graph or a server is told no more than an array and tells no more than one; layout, kind of number and the
meaning of the answer are part of the teacher's description.
"""

from typing import Final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from shared.contracts.images import Preprocessing
from shared.contracts.teachers import OnnxModel, RemoteModel
from shared.errors import TeacherAnswerInvalid
from shared.models.normalise import normalise, seen_pixels

_SUM_TOLERANCE: Final = {torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""By how much the sum of probabilities may miss 1: rounding of a thousand of them, and no more."""
_SUM_TOLERANCE_ELSE: Final = 1e-3


def tensor_in(
    images: UInt8[Tensor, "batch height width channels"],
    preprocessing: Preprocessing,
    model: OnnxModel | RemoteModel,
) -> Tensor:
    """Return what the model is given for these images, contiguous, on their device.

    Float inputs are normalised; a uint8 input takes pixels, resized where the model sees another size.
    """
    if model.datatype == "uint8":
        if preprocessing.seen == preprocessing.input:
            batch = images.movedim(-1, -3)
        else:
            batch = seen_pixels(images, preprocessing).round().to(torch.uint8)
    else:
        batch = normalise(images, preprocessing)
        if model.datatype == "float16":
            batch = batch.half()
    if model.layout == "NHWC":
        batch = batch.movedim(-3, -1)
    return batch.contiguous()


def logits_out(
    answer: Tensor, model: OnnxModel | RemoteModel, *, rows: int, classes: int, whose: str
) -> Float[Tensor, "1 batch classes"]:
    """Return what the model answered as the logits of one member, in float32 on the answer's device.

    Of probabilities the logarithm is taken, and of one that was rounded to 0 that of the smallest normal
    number of its type. Rows that are not finite stay as they are.

    Args:
        answer: floating point, rows x classes; dimensions of length 1 may follow.
        model: what answered.
        rows: that it was asked about.
        classes: of the teacher.
        whose: the model in words, such as `teacher 'owl'`.

    Raises:
        TeacherAnswerInvalid: the answer has another shape or type, or what should be probabilities does not
            sum to 1.
    """
    if not answer.is_floating_point():
        raise TeacherAnswerInvalid(f"{whose} answers {answer.dtype}, where numbers with a fraction are due")
    shape = tuple(answer.shape)
    if shape[:2] != (rows, classes) or any(length != 1 for length in shape[2:]):
        raise TeacherAnswerInvalid(
            f"{whose} should answer {rows} x {classes} numbers in {model.output!r}, got "
            f"{' x '.join(map(str, shape))}"
        )
    logits = answer.reshape(rows, classes)
    if model.answers == "probabilities":
        logits = _logarithm(logits, whose)
    return logits.float().unsqueeze(0)


def _logarithm(probabilities: Float[Tensor, "batch classes"], whose: str) -> Float[Tensor, "batch classes"]:
    wide = probabilities.double()
    sums = wide.sum(-1)
    tolerance = _SUM_TOLERANCE.get(probabilities.dtype, _SUM_TOLERANCE_ELSE)
    wrong = ((sums - 1).abs() > tolerance) | (wide < -tolerance).any(-1)  # NaN is neither: it is named later
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise TeacherAnswerInvalid(
            f"{whose} is described as answering probabilities, and those of {int(wrong.sum())} of "
            f"{len(sums)} images do not sum to 1: of image {row} the sum is {float(sums[row]):.4g}, the "
            f"smallest {float(wide[row].min()):.4g}",
            remedy="Add the teacher again with `answers: logits`, if that is what it gives.",
        )
    return wide.clamp(min=torch.finfo(probabilities.dtype).tiny).log()
