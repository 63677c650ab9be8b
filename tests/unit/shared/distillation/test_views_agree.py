"""The teacher is shown a view by `shared.transfer_set.views`, the student by `Batches`: both must be one."""

import numpy as np
import pytest
import torch

from shared.contracts.images import ImageInput, Preprocessing
from shared.contracts.training import TransferSetSpec
from shared.distillation.examples import Batches, Examples
from shared.models.normalise import normalise
from shared.transfer_set.views import ViewParameters, apply_views, view_parameters

SMALL = {"jitter_px": 2, "flip": True}
LARGE = {**SMALL, "crop_scale": 0.3, "cutout_px": 4, "brightness": 0.3, "contrast": 0.5}


@pytest.mark.parametrize("options", [SMALL, LARGE], ids=["shifts and flips", "everything"])
def test_the_student_sees_the_very_pixels_that_the_teacher_was_asked_about(options):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 9, 11, 3), dtype=np.uint8)
    spec = TransferSetSpec(views=3, seed=7, **options)
    views = [view_parameters(spec, len(images), view, (9, 11)) for view in range(spec.views)]
    preprocessing = Preprocessing(
        input=ImageInput(height=9, width=11, channels=3), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)
    )
    # Each label names its image, so that a batch tells which rows it took.
    examples = Examples(
        images=torch.from_numpy(images),
        labels=torch.arange(len(images)),
        parameters=ViewParameters.stack(views),
    )
    batches = Batches(
        examples, preprocessing, seeds=(0, 1), batch_size=16, jitter_px=0, device=torch.device("cpu")
    )
    for epoch in range(2 * spec.views):
        shown = torch.from_numpy(apply_views(images, views[epoch % spec.views]))
        batches.start_epoch(epoch)
        for step in range(batches.steps):
            batch = batches.batch(step, batches.lanes((1, 0)))
            assert batch.labels is not None
            assert torch.equal(batch.pixels, shown[batch.labels])
            torch.testing.assert_close(
                batch.images, normalise(shown[batch.labels], preprocessing), rtol=0, atol=0
            )
    assert np.any(apply_views(images, views[1]) != images)
    assert np.any(views[1].shift != 0)
    assert 0 < views[1].flip.sum() < len(images)


def test_views_and_logits_of_other_numbers_than_the_images_are_refused():
    images = torch.zeros(4, 9, 11, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="not of the same views and rows"):
        Examples(images, None, parameters=ViewParameters.as_is((2, 5), (9, 11)))
    with pytest.raises(ValueError, match="not of the same views and rows"):
        Examples(
            images,
            None,
            teacher_logits=torch.zeros(3, 4, 10).half(),
            parameters=ViewParameters.as_is((2, 4), (9, 11)),
        )
