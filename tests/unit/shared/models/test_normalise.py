import numpy as np
import pytest
import torch
from PIL import Image

from shared.contracts.images import ImageInput, Preprocessing
from shared.errors import InputMismatch
from shared.models.normalise import need_images, normalise


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


def _picture(channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 7, channels), dtype=np.uint8)


def _resized_by_pillow(picture: np.ndarray, size: ImageInput, resample: Image.Resampling) -> np.ndarray:
    """Each channel in float: Pillow filters when it shrinks, as antialiasing does."""
    planes = [
        np.asarray(
            Image.fromarray(picture[..., channel].astype(np.float32)).resize(
                (size.width, size.height), resample
            )
        )
        for channel in range(picture.shape[-1])
    ]
    return np.clip(np.stack(planes), 0, 255)


@pytest.mark.parametrize(("height", "width"), [(28, 21), (5, 4), (9, 14)], ids=["up", "down", "wider"])
@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_a_net_of_another_size_sees_the_picture_as_pillow_resizes_it(resample, height, width):
    net = ImageInput(height=height, width=width, channels=3)
    preprocessing = Preprocessing(
        input=ImageInput(height=9, width=7, channels=3),
        mean=(0.1, 0.5, 0.4),
        std=(0.2, 0.25, 0.3),
        net=net,
        resample=resample,
    )
    picture = _picture(3)
    pillow = _resized_by_pillow(picture, net, Image.Resampling[resample.upper()])
    by_hand = (pillow / 255 - np.array(preprocessing.mean)[:, None, None]) / np.array(preprocessing.std)[
        :, None, None
    ]
    found = normalise(torch.from_numpy(picture)[None], preprocessing)
    np.testing.assert_allclose(found[0].numpy(), by_hand, atol=1e-4)


def test_one_channel_becomes_three_alike_before_each_gets_its_own_mean():
    size = ImageInput(height=9, width=7, channels=1)
    preprocessing = Preprocessing(
        input=size,
        mean=(0.1, 0.5, 0.4),
        std=(0.2, 0.25, 0.3),
        net=size.model_copy(update={"channels": 3}),
    )
    picture = torch.from_numpy(_picture(1))
    found = normalise(picture.expand(2, 4, 9, 7, 1), preprocessing)
    assert found.shape == (2, 4, 3, 9, 7)
    for channel, (mean, std) in enumerate(zip(preprocessing.mean, preprocessing.std, strict=True)):
        torch.testing.assert_close(
            found[1, 2, channel], (picture[..., 0].float() / 255 - mean) / std, atol=1e-6, rtol=1e-6
        )


def test_an_edge_that_is_resized_by_a_cubic_stays_between_black_and_white():
    picture = torch.zeros(1, 8, 8, 1, dtype=torch.uint8)
    picture[:, :, 4:] = 255
    preprocessing = Preprocessing(
        input=ImageInput(height=8, width=8, channels=1),
        mean=(0.0,),
        std=(1.0,),
        net=ImageInput(height=32, width=32, channels=1),
        resample="bicubic",
    )
    found = normalise(picture, preprocessing)
    assert (float(found.min()), float(found.max())) == (0.0, 1.0)


def test_images_of_another_size_than_a_model_takes_are_refused_by_its_name():
    with pytest.raises(InputMismatch, match="it takes images of 2 x 3 x 1, got 3 x 2 x 1"):
        need_images(torch.zeros(5, 3, 2, 1), ImageInput(height=2, width=3, channels=1), "it")
