"""Loading a teacher for its layers: what cannot be loaded is refused with the reason."""

from pathlib import Path

import pytest
import torch

from services.worker.protocol import ChildOrder
from services.worker.settings import WorkerSettings
from services.worker.stages.context import JobContext
from services.worker.stages.training import features_of_teacher
from shared.artefacts.store import ArtefactStore
from shared.contracts.specs import TeacherSpec
from shared.errors import TeacherNotLoadable
from tests.support.teachers import publish, random_images


@pytest.fixture
def context(tmp_path: Path) -> JobContext:
    order = ChildOrder(
        job_id="j-1", epoch=1, attempts=1, spec=TeacherSpec(name="teacher", dataset="mnist-5k")
    )
    settings = WorkerSettings(state_dir=tmp_path, device="cpu")
    return JobContext(order, settings, ArtefactStore(settings.store_dir), lambda _message: None)


def test_a_teacher_of_one_net_says_what_its_layers_say(context: JobContext):
    teacher = publish(context.settings.store_dir, "sage", members=1)
    features = features_of_teacher(context, teacher)
    layer, shape = next(iter(features.network.layers.items()))
    images = torch.from_numpy(random_images(3)).unsqueeze(0)
    assert features.of(images, [layer])[layer].shape == (1, 3, *shape)


def test_an_ensemble_is_refused(context: JobContext):
    teacher = publish(context.settings.store_dir, "council", members=3)
    with pytest.raises(TeacherNotLoadable, match=r"'council'.*ensemble of 3 nets"):
        features_of_teacher(context, teacher)


def test_a_teacher_whose_weights_lie_elsewhere_is_refused(context: JobContext, tmp_path: Path):
    teacher = publish(tmp_path / "elsewhere", "far", members=1)
    with pytest.raises(TeacherNotLoadable, match="not in the store"):
        features_of_teacher(context, teacher)
