import torch

from shared.contracts.images import ImageInput, Preprocessing
from shared.models.normalise import normalise


def test_pixels_become_what_the_description_says_channel_by_channel():
    preprocessing = Preprocessing(
        input=ImageInput(height=2, width=3, channels=2), mean=(0.1, 0.5), std=(0.2, 0.25)
    )
    images = torch.randint(
        0, 256, (4, 2, 3, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    found = normalise(images, preprocessing)
    assert found.shape == (4, 2, 2, 3)
    for channel, (mean, std) in enumerate([(0.1, 0.2), (0.5, 0.25)]):
        by_hand = (images[..., channel].double() / 255 - mean) / std
        torch.testing.assert_close(found[:, channel].double(), by_hand, atol=1e-6, rtol=1e-6)


def test_leading_dimensions_are_kept():
    preprocessing = Preprocessing(input=ImageInput(height=2, width=2, channels=1), mean=(0.0,), std=(1.0,))
    assert normalise(torch.zeros(5, 3, 2, 2, 1, dtype=torch.uint8), preprocessing).shape == (5, 3, 1, 2, 2)
