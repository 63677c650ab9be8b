"""What nets are trained on, out of a transfer set that is stored or still being asked for."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from services.worker.stages import outcomes
from services.worker.stages.transfer_sets.wanted import Wanted
from shared.artefacts.tensors import Array
from shared.distillation.examples import Examples
from shared.distillation.losses import UNLABELLED
from shared.distillation.teacher_answers import LiveLogits, SparseLogits, TeacherLogits
from shared.transfer_set import topk
from shared.transfer_set.reader import TransferSet
from shared.transfer_set.views import ViewParameters, view_parameters


def taught_examples(examples: Examples, stored: TransferSet, *, temperature: float) -> Examples:
    """Return the examples that the transfer set takes, with what the teacher said and the views it was shown.

    Args:
        examples: the whole training split, with its labels; the validation images stay as they are.
        stored: a finished set of this training split.
        temperature: T of the loss that will be trained with.

    Returns:
        Examples of the selected rows alone, in their order. Their labels are -1 where they may not be used;
        the untaught twin learns from the very same.

    Raises:
        InvalidRequest: its logits do not serve this temperature.
    """
    stored.check_temperature(temperature)
    return replace(
        _selected(examples, stored.rows, stored.labelled),
        teacher_logits=as_torch(stored.answers),
        parameters=stored.parameters,
    )


def live_examples(examples: Examples, wanted: Wanted, live: LiveLogits) -> Examples:
    """Return the same examples as `taught_examples` of the finished set, with answers that are to come."""
    spec, images = wanted.inputs.spec, wanted.train.images
    size = (images.shape[1], images.shape[2])
    rows = wanted.selection.rows
    seen = [view_parameters(spec, len(images), view, size)[rows] for view in range(spec.views)]
    return replace(
        _selected(examples, rows, wanted.selection.labelled),
        live=live,
        parameters=ViewParameters.stack(seen),
    )


def named_by_teacher(examples: Examples) -> Examples:
    """Return the examples with the class that the teacher gives each image, as it is, for a label.

    Of images that nobody labelled this is what an untaught twin can learn from; of live answers those to the
    first view are waited for.
    """
    if examples.live is not None:
        said = examples.live.logits(0)
    else:
        assert examples.teacher_logits is not None, "a teacher was asked"
        said = examples.teacher_logits[0]
    return replace(examples, labels=said.float().argmax(-1))


def as_torch(answers: Array | topk.SparseLogits) -> TeacherLogits:
    """Return stored answers as tensors on the same memory: they may be most of what a training holds."""
    if isinstance(answers, topk.SparseLogits):
        return SparseLogits(
            classes=answers.total,
            indices=torch.from_numpy(answers.classes.astype("int32")),
            values=torch.from_numpy(answers.logits),
            rest=torch.from_numpy(answers.rest),
        )
    return torch.from_numpy(answers)


def _selected(examples: Examples, rows: NDArray[np.int64], labelled: NDArray[np.bool_]) -> Examples:
    taken = outcomes.tensor(rows)
    labels = examples.labels
    if labels is not None:
        labels = labels[taken].masked_fill(~outcomes.tensor(labelled), UNLABELLED)
    # A large dataset is not copied where all of it is taken.
    images = examples.images if len(taken) == examples.rows else examples.images[taken]
    return replace(examples, images=images, labels=labels)
