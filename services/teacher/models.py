"""The teachers that answer: read from the artefact store, checked, kept in memory while they are asked."""

import logging
import threading
from collections import OrderedDict

import numpy as np
import torch
from prometheus_client import Gauge
from torch import Tensor

from shared.artefacts.teachers import TeacherStore
from shared.contracts.teachers import TeacherDescription
from shared.errors import Corrupt, TeacherAnswerInvalid, TeacherChanged, TeacherNotFound
from shared.models.checkpoints import from_arrays
from shared.models.ensemble import StackedEnsemble
from shared.models.specialist_ensemble import ensemble_of, shapes_of

log = logging.getLogger(__name__)

HELD = Gauge("imago_teacher_held", "Teachers in memory")


class Teachers:
    """Teachers by name, as the store has them now; the least recently asked leave memory first.

    The store is read anew for every call: two small files, so that a teacher published or replaced a moment
    ago answers, and nothing has to be told. Calls block; they may come from several threads.

    Args:
        store: where teachers are published.
        device: where they answer.
        max_held: how many stay in memory.
    """

    def __init__(self, store: TeacherStore, *, device: torch.device, max_held: int) -> None:
        self.device = device
        self._store = store
        self._max_held = max_held
        self._held: OrderedDict[str, StackedEnsemble] = OrderedDict()
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    def names(self) -> list[str]:
        """Return the names under which a teacher answers, sorted."""
        return self._store.names()

    def describe(self, name: str) -> TeacherDescription:
        """Return the description of the teacher of this name.

        Raises:
            TeacherNotFound: there is none.
            Corrupt: its files contradict each other.
        """
        return self._store.current(name)

    def describe_all(self) -> list[TeacherDescription]:
        """Return the descriptions of all teachers by name; damaged ones are logged and left out."""
        found = []
        for name in self._store.names():
            try:
                found.append(self._store.current(name))
            except (Corrupt, TeacherNotFound) as error:
                log.warning("teacher left out of the list", extra={"teacher": name, "detail": str(error)})
        return found

    def hold(
        self, name: str, expected_digest: str | None = None
    ) -> tuple[TeacherDescription, StackedEnsemble]:
        """Return the teacher of this name, loaded and checked.

        Args:
            name: of the teacher.
            expected_digest: of the teacher that the caller wants, if it has to be a certain one.

        Raises:
            TeacherNotFound: there is no teacher of this name.
            TeacherChanged: the name stands for another digest.
            Corrupt: its files are not what its digest says.
            TeacherAnswerInvalid: its weights make no net, or one that answers no finite numbers.
        """
        description = self._store.current(name)
        if expected_digest is not None and expected_digest != description.digest:
            raise TeacherChanged(name, expected_digest, description.digest)
        held = self._find(description.digest)
        if held is None:
            with self._loading:  # one at a time: whoever waited finds it loaded
                held = self._find(description.digest) or self._load(description)
        return description, held

    def _find(self, digest: str) -> StackedEnsemble | None:
        with self._lock:
            held = self._held.get(digest)
            if held is not None:
                self._held.move_to_end(digest)
            return held

    def _load(self, description: TeacherDescription) -> StackedEnsemble:
        tensors = from_arrays(self._store.load(description))
        _check_tensors(description, tensors)
        with self._lock:  # make room before, so that the device never holds one more than allowed
            while len(self._held) >= self._max_held:
                self._held.popitem(last=False)
        ensemble = ensemble_of(description, tensors, device=self.device)
        _check_answer(ensemble)
        with self._lock:
            self._held[description.digest] = ensemble
            HELD.set(len(self._held))
        log.info("teacher loaded", extra={"teacher": description.name, "digest": description.digest})
        return ensemble


def _check_tensors(description: TeacherDescription, tensors: dict[str, Tensor]) -> None:
    """Compare names, shapes and kind of number with the nets that the description names."""
    expected = {name: (torch.float32, shape) for name, shape in shapes_of(description).items()}
    found = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    if found != expected:
        differing = sorted(
            name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
        )
        raise TeacherAnswerInvalid(
            f"teacher {description.name!r} cannot be loaded: tensors {', '.join(differing)} are missing, not "
            "known, or not of the shape and number type of its architecture"
        )


def _check_answer(ensemble: StackedEnsemble) -> None:
    """Ask about a black and a white image; this also warms the device up."""
    size = ensemble.description.preprocessing.input
    extremes = np.zeros((2, size.height, size.width, size.channels), dtype=np.uint8)
    extremes[1] = 255
    logits = ensemble.softened_logits(torch.from_numpy(extremes), temperature=1.0)
    if not bool(torch.isfinite(logits).all()):
        raise TeacherAnswerInvalid(
            f"teacher {ensemble.description.name!r} cannot be used: its logits are not finite"
        )
