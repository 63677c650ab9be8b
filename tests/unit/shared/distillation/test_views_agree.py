"""The teacher is shown a view by `shared.transfer_set.views`, the student by `Batches`: both must be one."""

import numpy as np
import torch

from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.training import TransferSetSpec
from shared.distillation.examples import Batches, Examples
from shared.models.normalise import normalise
from shared.transfer_set.views import apply_view, view_flips, view_shifts


def test_the_student_sees_the_very_pixels_that_the_teacher_was_asked_about():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 9, 11, 3), dtype=np.uint8)
    spec = TransferSetSpec(views=3, jitter_px=2, flip=True, seed=7)
    shifts = np.stack([view_shifts(spec, len(images), view) for view in range(spec.views)])
    flips = np.stack([view_flips(spec, len(images), view) for view in range(spec.views)])
    preprocessing = Preprocessing(
        input=ImageInput(height=9, width=11, channels=3), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)
    )
    # Each label names its image, so that a batch tells which rows it took.
    examples = Examples(
        images=torch.from_numpy(images),
        labels=torch.arange(len(images)),
        shifts=torch.from_numpy(shifts),
        flips=torch.from_numpy(flips),
    )
    batches = Batches(
        examples, preprocessing, seeds=(0,), batch_size=16, jitter_px=0, device=torch.device("cpu")
    )
    for epoch in range(spec.views):
        shown = torch.from_numpy(apply_view(images, shifts[epoch], flips[epoch]))
        batches.start_epoch(epoch)
        for step in range(batches.steps):
            batch = batches.batch(step, batches.lanes((0,)))
            assert batch.labels is not None
            expected = normalise(shown[batch.labels[0]], preprocessing)
            torch.testing.assert_close(batch.images[0], expected, rtol=0, atol=0)
    assert np.any(shifts[1] != 0)
    assert 0 < flips[1].sum() < len(images)
