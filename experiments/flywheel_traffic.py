"""What the flywheel's experiment does beside its jobs: a dataset, traffic, questions."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from experiments import flywheel
from experiments.experiment import Form, Outcomes
from experiments.result import Values
from shared.artefacts.datasets import Split
from shared.client import Client, GatewayRefused
from shared.contracts.traffic import Cascade, Keeping, TrafficPolicy
from shared.datasets.builtin import load_builtin
from shared.datasets.splits import stratified, take
from shared.settings import CommonSettings, load

KNOWN: Final = 1_000
"""Labelled training images of the first student."""
_TEST_IMAGES_SENT: Final = 1_000
"""As people send them in a demonstration; none may be learned."""
_DEADLINE_MS: Final = 1_000
_FOLLOWED_S: Final = 1.0
"""Until every process of the gateway has seen the policy."""
_QUIET_S: Final = 2.0
_MOST_S: Final = 120.0


def upload(form: Form, api: Client, outcomes: Outcomes) -> dict[str, Values]:
    """Upload 1,000 digits to learn from, with MNIST's own validation and test splits."""
    splits = _mnist()
    known, _ = _parts(splits["train"])
    sent = {"train": take(splits["train"], known), "valid": splits["validation"], "t10k": splits["test"]}
    with tempfile.TemporaryDirectory() as folder:
        files = [file for name, split in sent.items() for file in _idx(Path(folder), name, split)]
        api.add_dataset(flywheel.dataset(form), files)
    return {"images": (float(len(known)),)}


def send(form: Form, api: Client, outcomes: Outcomes) -> dict[str, Values]:
    """Promote the first student, let its teacher stand behind it and keep what it asks it, and send images.

    Where the frozen dataset is there already, the turn is over: nothing is sent, figures are the report's.
    """
    base = outcomes.distillation(flywheel.BASE)
    splits = _mnist()
    _, rest = _parts(splits["train"])
    images = splits["train"].images[rest[: flywheel.sent_images(form)]]
    everything = np.concatenate([images, splits["test"].images[:_TEST_IMAGES_SENT]])
    if not _is_there(api, flywheel.frozen(form)):
        api.promote(base.student_version)
        _, before = _asked(api, splits["test"], base.student_version)
        cascade = Cascade(share=flywheel.SHARE, deadline_ms=_DEADLINE_MS)
        keeping = Keeping(collection=flywheel.collection(form), most_images=50_000)
        api.set_traffic(TrafficPolicy(cascade=cascade, keeping=keeping))
        time.sleep(_FOLLOWED_S)
        for _ in api.predict_many(everything):
            pass
        _wait_until_quiet(api, flywheel.collection(form))
        api.clear_traffic()
    else:
        before = 100 * base.taught.accuracy
    kept = api.kept_collection(flywheel.collection(form)).images
    return {"sent": (float(len(everything)),), "kept": (float(kept),), "before": (before,)}


def ask(form: Form, api: Client, outcomes: Outcomes) -> dict[str, Values]:
    """Ask the live student about all test images."""
    new = outcomes.distillation(flywheel.TURN).student_version
    answered, after = _asked(api, _mnist()["test"], new)
    return {"after": (after,), "answered by the new student": (float(answered),)}


def _asked(api: Client, test: Split, version: str) -> tuple[bool, float]:
    """Return whether this student gave all answers, and how many per cent of them were right."""
    assert test.labels is not None, "MNIST has labels"
    answers = list(api.predict_many(test.images, cascade="off", top=1))
    right = [int(one.predicted) == label for one, label in zip(answers, test.labels, strict=True)]
    return {one.student for one in answers} == {version}, 100 * float(np.mean(right))


def _wait_until_quiet(api: Client, collection: str) -> None:
    """Wait until no more images are kept: the last ones are written after their answers."""
    deadline, seen, since = time.monotonic() + _MOST_S, -1, time.monotonic()
    while time.monotonic() - since < _QUIET_S and time.monotonic() < deadline:
        try:
            images = api.kept_collection(collection).images
        except GatewayRefused as error:
            if error.code != "kept-not-found":
                raise
            images = 0
        if images != seen:
            seen, since = images, time.monotonic()
        time.sleep(0.2)


def _is_there(api: Client, name: str) -> bool:
    return any(dataset.name == name for dataset in api.datasets().datasets)


def _mnist() -> dict[str, Split]:
    splits, _, _ = load_builtin("mnist", load(CommonSettings).data_dir)
    return splits


def _parts(train: Split) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows that the first student learns from, and all others in an order drawn once."""
    assert train.labels is not None, "MNIST has labels"
    known, rest = stratified(train.labels, (KNOWN / len(train),), seed=0)
    return known, np.random.default_rng(0).permutation(rest)


def _idx(folder: Path, name: str, split: Split) -> Iterator[Path]:
    """Write a split as the two files that MNIST comes in, and yield their paths."""
    assert split.labels is not None, "MNIST has labels"
    images = np.ascontiguousarray(split.images[..., 0])
    for part, array in (("images-idx3", images), ("labels-idx1", split.labels.astype(np.uint8))):
        path = folder / f"{name}-{part}-ubyte"
        path.write_bytes(_header(array.shape) + array.tobytes())
        yield path


def _header(shape: Sequence[int]) -> bytes:
    # Two zeros, 8 for unsigned bytes, the number of dimensions; then each dimension, big end first.
    return bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
