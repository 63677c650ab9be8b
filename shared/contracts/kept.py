"""Kept images: what a gateway keeps, with consent, of the images that its student was not sure of."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from shared.contracts.base import Contract, Digest, Name

KeptReason = Literal["escalated", "disagreed"]
"""Why an image was kept: it went to the teacher, or the student's shadow or canary named another class."""


class KeptByStudent(Contract):
    """Images of a collection that one student was not sure of."""

    student: str
    """Its version."""
    dataset: Name
    """What it was distilled on; a dataset of the same classes and image size can take the images in."""
    images: int


class KeptCollection(Contract):
    """Images kept under one name; each is there once, for the reason for which it came first."""

    name: Name
    images: int
    size_bytes: int
    """On the disk."""
    since: datetime
    """When the first image was kept."""
    until: datetime
    """When the newest was."""
    escalated: int
    disagreed: int
    students: tuple[KeptByStudent, ...]


class KeptList(Contract):
    """All collections, by name."""

    collections: tuple[KeptCollection, ...]


class Frozen(Contract):
    """How kept images became a part of a dataset, which never changes again."""

    collection: Name
    base: Name
    """The dataset that the others are from: labelled training images, and all that validates and tests."""
    base_digest: Digest
    job_id: str
    """The job that froze them."""
    taken: int
    """Kept images among the training images. They have no labels."""
    known: int
    """Left out, as they are training images of the base."""
    held_out: int
    """Left out, as they are validation or test images of the base: who learned them would be overrated."""


class KeptDeleted(Contract):
    """What became of a collection after consent was withdrawn."""

    name: Name
    images: int = Field(ge=0)
    """Removed."""
    datasets: tuple[Name, ...]
    """Frozen datasets that hold copies of its images."""
    datasets_removed: bool
    """Whether these were removed as well, as `datasets=true` asks."""
    still_kept: bool
    """Whether the traffic policy goes on keeping under this name."""
