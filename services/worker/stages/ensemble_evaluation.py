"""Generalist and specialists against the generalist alone, for the evaluate stage."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from pydantic import BaseModel
from torch import Tensor

from services.worker.stages import outcomes
from services.worker.stages.context import JobContext
from services.worker.stages.training import held_out
from shared.contracts.evaluation import Comparison, Evaluation
from shared.contracts.jobs import Stage
from shared.contracts.reports import CoverageRow
from shared.contracts.specs import SpecialistsSpec
from shared.distillation.coverage import coverage_table
from shared.distillation.evaluation import evaluate
from shared.distillation.verdict import compare
from shared.models.specialist_ensemble import SpecialistEnsemble

_ROWS = 1024


class EnsembleOutcome(BaseModel):
    """What was found out on the test split, whose labels are read here and nowhere else."""

    seed: int
    """Whose ensemble has the best validation accuracy; the first of equals."""
    generalist: Evaluation
    combined: Evaluation
    """Of that seed."""
    comparison: Comparison
    coverage: tuple[CoverageRow, ...]
    asked: tuple[int, ...]
    """Test images on which each specialist is active."""


def evaluate_ensembles(
    context: JobContext,
    spec: SpecialistsSpec,
    classes: Sequence[str],
    sets: Sequence[Sequence[int]],
    ensemble_of: Callable[[int], SpecialistEnsemble],
) -> EnsembleOutcome:
    """Return what the ensembles of all seeds are worth.

    Args:
        context: of the job.
        spec: names dataset and seeds.
        classes: all of them, in order.
        sets: class indices of each specialist.
        ensemble_of: makes the ensemble of a seed; one at a time is kept.
    """
    steps = len(spec.seeds) + 1
    images, labels = held_out(context, spec.dataset)
    validation = context.store.datasets.load(spec.dataset, "validation")
    assert validation.labels is not None, "checked before"
    chosen_on, chosen_by = outcomes.tensor(validation.images), outcomes.tensor(validation.labels)
    validated: dict[int, float] = {}
    combined: dict[int, Tensor] = {}
    for done, seed in enumerate(spec.seeds):
        context.progress(Stage.EVALUATE, done, steps, "ensembles")
        ensemble = ensemble_of(seed)
        if not done:  # the generalist is the same in each
            parts = [ensemble.generalist_logits(part) for part in torch.split(images, _ROWS)]
            generalist = torch.cat(parts).cpu()
            asked = ensemble.active(generalist).sum(0)
        combined[seed] = _answers(ensemble, images)
        validated[seed] = float((_answers(ensemble, chosen_on).argmax(-1) == chosen_by).double().mean())
    named = generalist.argmax(-1)
    right = (named == labels).numpy()
    together = np.stack([(combined[seed].argmax(-1) == labels).numpy() for seed in spec.seeds])
    chosen = max(spec.seeds, key=lambda seed: validated[seed])
    comparison = compare(
        together,
        np.repeat(right[None], len(spec.seeds), axis=0),
        seeds=spec.seeds,
        agreements=[float((combined[seed].argmax(-1) == named).double().mean()) for seed in spec.seeds],
    )
    context.progress(Stage.EVALUATE, steps, steps, "ensembles", {"gain": comparison.gain})
    return EnsembleOutcome(
        seed=chosen,
        generalist=evaluate(generalist, labels, classes),
        combined=evaluate(combined[chosen], labels, classes),
        comparison=comparison,
        coverage=coverage_table(sets, labels.numpy(), right, together),
        asked=tuple(asked.tolist()),
    )


def _answers(
    ensemble: SpecialistEnsemble, images: UInt8[Tensor, "rows height width channels"]
) -> Float[Tensor, "rows classes"]:
    parts = [ensemble.softened_logits(part, temperature=1.0).cpu() for part in torch.split(images, _ROWS)]
    return torch.cat(parts)
