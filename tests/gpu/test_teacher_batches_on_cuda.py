"""Batches on a GPU: recorded passes of every size, and batches begun before the one before them is done."""

import asyncio

import numpy as np
import pytest
import torch

from services.teacher.batching import Batcher, Limits
from services.teacher.cuda import Cuda
from services.teacher.lanes import Part
from services.teacher.models import Teachers
from shared.artefacts.store import ArtefactStore
from shared.contracts.architectures import ResNet
from shared.models.checkpoints import stack, to_arrays
from shared.models.network import Network
from tests.support.specialists import publish_ensemble
from tests.support.teachers import CLASSES, INPUT, expected_logits, publish, random_images, random_tensors

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def held(root, name: str = "shapes"):
    return Teachers(ArtefactStore(root).teachers, device=torch.device("cuda"), max_held=1).hold(name)[1]


def device() -> Cuda:
    return Cuda(torch.device("cuda"), max_batch_rows=64, longest_s=1.0)


@pytest.mark.parametrize("merge", ["geometric", "arithmetic"])
def test_recorded_passes_answer_each_part_by_the_formula_whatever_their_size(tmp_path, merge):
    publish(tmp_path, members=3, merge=merge)
    teacher, cuda = held(tmp_path), device()
    cuda.pace(teacher)
    for sizes in ((1,), (3,), (64,), (5, 1, 30), (2,)):
        parts = [
            Part(random_images(rows, seed=rows), t) for rows, t in zip(sizes, (2.0, 1.0, 2.0), strict=False)
        ]
        for part, found in zip(parts, cuda.start(teacher, parts)(), strict=True):
            expected = expected_logits(
                random_tensors(members=3), part.images, temperature=part.temperature, merge=merge
            )
            np.testing.assert_allclose(found, expected, atol=1e-4)
    assert all(recorded is not None for recorded in cuda._recorded[teacher].values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_recorded_convolutional_pass_answers_as_one_that_is_run_step_by_step(tmp_path, precision):
    architecture = ResNet(architecture="resnet8")
    tensors = to_arrays(stack([Network(architecture, INPUT, len(CLASSES)).initial(0)]))
    publish(tmp_path, tensors=tensors, architecture=architecture, precision=precision)
    teacher, cuda = held(tmp_path), device()
    cuda.pace(teacher)
    images = random_images(13)
    (found,) = cuda.start(teacher, [Part(images, 1.0)])()
    expected = teacher.softened_logits(torch.from_numpy(images).cuda(), temperature=1.0).cpu().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4 if precision == "float32" else 0.05)
    assert cuda._recorded[teacher][16] is not None


def test_what_cannot_be_recorded_is_run_step_by_step(tmp_path):
    publish_ensemble(tmp_path)
    teacher, cuda = held(tmp_path, "experts"), device()
    (found,) = cuda.start(teacher, [Part(random_images(7), 2.0)])()
    expected = teacher.softened_logits(torch.from_numpy(random_images(7)).cuda(), temperature=2.0)
    np.testing.assert_allclose(found, expected.cpu().numpy(), atol=1e-4)


def test_batches_that_overlap_keep_their_answers_apart(tmp_path):
    publish(tmp_path)
    teacher = held(tmp_path)
    batches = [random_images(1 + index % 50, seed=index) for index in range(200)]

    async def main() -> list[np.ndarray]:
        batcher = Batcher(device(), Limits(max_batch_rows=64, queue_rows=100_000))
        try:
            return await asyncio.gather(
                *(batcher.ask(teacher, images, temperature=2.0, lane="bulk") for images in batches)
            )
        finally:
            await batcher.close()

    for images, found in zip(batches, asyncio.run(main()), strict=True):
        expected = expected_logits(random_tensors(), images, temperature=2.0)
        np.testing.assert_allclose(found, expected, atol=1e-4)
