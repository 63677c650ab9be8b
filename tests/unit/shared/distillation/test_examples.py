from dataclasses import replace

import pytest
import torch

from shared.distillation.examples import Batches, Examples
from shared.models.normalise import normalise
from tests.support.cohorts import PREPROCESSING, examples


def batches(data: Examples, *, seeds=(0, 1), batch_size=32, jitter_px=0) -> Batches:
    return Batches(
        data,
        PREPROCESSING,
        seeds=seeds,
        batch_size=batch_size,
        jitter_px=jitter_px,
        device=torch.device("cpu"),
    )


def numbered() -> Examples:
    """Each label is its row's number, so that a batch tells where it came from."""
    data = examples()
    return Examples(data.images, torch.arange(200), teacher_logits=data.teacher_logits)


def epoch_of(source: Batches, seed: int, epoch: int) -> torch.Tensor:
    source.start_epoch(epoch)
    return torch.cat([source.batch(step, source.lanes((seed,))).labels[0] for step in range(source.steps)])


def test_an_epoch_shows_every_image_once_in_an_order_of_its_seed_and_number():
    orders = [epoch_of(batches(numbered()), seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        assert torch.equal(order.sort().values, torch.arange(200))
    assert len({tuple(order.tolist()) for order in orders}) == 4
    assert torch.equal(epoch_of(batches(numbered(), seeds=(1,)), 1, 1), orders[3])


def test_image_label_and_logits_of_a_row_stay_together():
    data = numbered()
    source = batches(data)
    source.start_epoch(0)
    batch = source.batch(2, source.lanes((1, 0)))
    rows = batch.labels
    torch.testing.assert_close(batch.images, normalise(data.images[rows], PREPROCESSING))
    torch.testing.assert_close(batch.teacher_logits, data.teacher_logits[0][rows].float())


def test_the_last_batch_has_what_is_left():
    source = batches(numbered(), batch_size=64)
    source.start_epoch(0)
    assert source.steps == 4
    assert source.batch(3, source.lanes((0,))).images.shape == (1, 8, 1, 6, 6)


def test_epochs_walk_through_the_views_with_their_logits():
    data = examples(views=3)
    data = replace(data, labels=torch.arange(200))
    source = batches(data)
    for epoch, view in ((0, 0), (1, 1), (2, 2), (3, 0)):
        source.start_epoch(epoch)
        batch = source.batch(0, source.lanes((0,)))
        torch.testing.assert_close(batch.teacher_logits, data.teacher_logits[view][batch.labels].float())


def shifted(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """Shift by hand, pixel by pixel, zeros coming in."""
    moved = torch.zeros_like(image)
    height, width = image.shape[:2]
    for y in range(height):
        for x in range(width):
            if 0 <= y - down < height and 0 <= x - right < width:
                moved[y, x] = image[y - down, x - right]
    return moved


@pytest.mark.parametrize("channels", [1, 3])
def test_a_jittered_image_is_the_image_shifted_by_at_most_so_many_pixels(channels):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (12, 5, 6, channels), dtype=torch.uint8, generator=generator)
    preprocessing = PREPROCESSING.model_copy(
        update={
            "input": PREPROCESSING.input.model_copy(update={"height": 5, "width": 6, "channels": channels}),
            "mean": (0.5,) * channels,
            "std": (0.3,) * channels,
        }
    )
    source = Batches(
        Examples(images, torch.arange(12)),
        preprocessing,
        seeds=(0,),
        batch_size=12,
        jitter_px=2,
        device=torch.device("cpu"),
    )
    seen = set()
    for epoch in range(8):
        source.start_epoch(epoch)
        batch = source.batch(0, source.lanes((0,)))
        for image, row in zip(batch.images[0], batch.labels[0].tolist(), strict=True):
            fits = [
                (down, right)
                for down in range(-2, 3)
                for right in range(-2, 3)
                if torch.equal(image, normalise(shifted(images[row], down, right), preprocessing))
            ]
            assert len(fits) == 1
            seen.add(fits[0])
    assert len(seen) > 20, "nearly all of the 25 shifts come up in 96 draws"


def test_jitter_is_drawn_anew_each_epoch_and_for_each_seed():
    source = batches(examples(views=None), jitter_px=1)
    drawn = []
    for epoch in (0, 1):
        source.start_epoch(epoch)
        drawn += [source._drawn_shifts[lane] for lane in (0, 1)]
    assert not any(torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])


def test_examples_are_known_by_every_number_they_hold(monkeypatch):
    data = examples(views=2)
    whole = data.digests()
    monkeypatch.setattr("shared.distillation.examples._BYTES_AT_ONCE", 100)
    assert replace(data).digests() == whole  # however it is read
    again = examples(views=2)
    again.parameters.cutout[1, 199, 3] = 1
    again.labels[7] += 1
    theirs = again.digests()
    assert {name for name in whole if whole[name] != theirs[name]} == {"cutout", "labels"}
