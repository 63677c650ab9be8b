"""A teacher in the store, so that jobs can name one; it is never asked anything."""

from datetime import UTC, datetime

import numpy as np

from shared.artefacts.store import ArtefactStore
from shared.contracts.architectures import Mlp
from shared.contracts.images import Preprocessing
from shared.contracts.teachers import Nets, TeacherDescription
from tests.support.student_bundles import DIGIT_INPUT, DIGITS


def publish_teacher(store: ArtefactStore, name: str, classes: tuple[str, ...] = DIGITS) -> TeacherDescription:
    """Publish a teacher of digits and make it the current one of its name."""
    description = store.teachers.publish_nets(
        name=name,
        tensors={"layers.0.weight": np.zeros((1, 4, 4), np.float32)},
        model=Nets(architecture=Mlp(hidden_units=(4,))),
        classes=classes,
        preprocessing=Preprocessing(input=DIGIT_INPUT, mean=(0.1,), std=(0.3,)),
        test_accuracy=0.95,
        job_id=None,
        created_at=datetime(2026, 11, 21, tzinfo=UTC),
    )
    store.teachers.make_current(name, description.digest)
    return description
