"""Training on a GPU: the same nets as on a CPU, within float32's tolerance, without waiting at each step."""

import subprocess
import sys
import warnings

import pytest
import torch

from shared.distillation.cohort import TrainingStopped, train_cohort
from tests.support.cohorts import (
    ARCHITECTURE,
    BUDGET,
    CLASSES,
    PREPROCESSING,
    REGULARISED,
    examples,
    nets,
    teachers,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


def train(asked, data, **options):
    options = {"classes": CLASSES, "preprocessing": PREPROCESSING, "budget": BUDGET, **options}
    return train_cohort(ARCHITECTURE, asked, data, **options)


@pytest.mark.parametrize("together", [True, False])
def test_students_become_on_a_gpu_what_they_become_on_a_cpu(together):
    on_cpu, on_gpu = (
        train(nets(0, 1), examples(views=2), device=device, together=together) for device in ("cpu", "cuda")
    )
    for one, other in zip(on_cpu, on_gpu, strict=True):
        for name, tensor in one.tensors.items():
            torch.testing.assert_close(other.tensors[name], tensor, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_teachers_with_every_regulariser_learn_the_task(precision):
    budget = BUDGET.model_copy(update={"epochs": 15, "precision": precision})
    trained = train(
        teachers(0, 1),
        examples(views=None),
        device="cuda",
        budget=budget,
        regularisation=REGULARISED,
    )
    assert all(net.validation_accuracy > 0.5 for net in trained)
    assert all(tensor.device.type == "cpu" for net in trained for tensor in net.tensors.values())


def test_no_step_waits_for_the_gpu():
    """Between validations nothing asks the device for a value, so steps queue up without gaps."""
    waits = []

    def on_epoch(_done, _total, _metrics):
        waits.append(len(seen))

    budget = BUDGET.model_copy(update={"epochs": 2, "batch_size": 2})
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            train(nets(0), examples(), device="cuda", budget=budget, on_epoch=on_epoch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert waits[1] - waits[0] < 20, f"{waits} waits in epochs of 100 steps"


CUT_AND_RESUMED = """
import sys, torch
from pathlib import Path
from services.worker.training_process import be_deterministic
be_deterministic()
from shared.distillation import rounds
from shared.distillation.cohort import TrainingStopped, train_cohort
from tests.support.cohorts import ARCHITECTURE, BUDGET, CLASSES, PREPROCESSING, REGULARISED
from tests.support.cohorts import examples, teachers

rounds._STEPS_BETWEEN_QUESTIONS = 1

def train(stop_at=None, folder=None):
    asked = iter(range(10_000))
    return train_cohort(
        ARCHITECTURE, teachers(0, 1), examples(views=None), classes=CLASSES, preprocessing=PREPROCESSING,
        budget=BUDGET, regularisation=REGULARISED, device="cuda", checkpoints=folder,
        should_stop=lambda: next(asked) == stop_at,
    )

expected = train()
for step in (1, 9, 20):
    folder = Path(sys.argv[1]) / str(step)
    try:
        train(step, folder)
    except TrainingStopped:
        pass
    for one, other in zip(expected, train(folder=folder), strict=True):
        assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors), step
"""


def test_with_deterministic_algorithms_a_run_cut_on_a_gpu_ends_as_the_undisturbed_one(tmp_path):
    """In a process of its own: what makes it so must be said before CUDA starts."""
    ran = subprocess.run(
        [sys.executable, "-c", CUT_AND_RESUMED, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_a_run_cut_on_a_gpu_goes_on(tmp_path):
    data, asked = examples(), nets(0)
    told = []
    with pytest.raises(TrainingStopped):
        train(
            asked,
            data,
            device="cuda",
            checkpoints=tmp_path,
            on_epoch=lambda done, _all, _m: told.append(done),
            should_stop=lambda: bool(told),
        )
    told.clear()
    resumed = train(
        asked, data, device="cuda", checkpoints=tmp_path, on_epoch=lambda done, _all, _m: told.append(done)
    )
    assert told[0] == 2
    for one, other in zip(train(asked, data, device="cuda"), resumed, strict=True):
        for name, tensor in one.tensors.items():
            torch.testing.assert_close(other.tensors[name], tensor, rtol=1e-2, atol=1e-3)
