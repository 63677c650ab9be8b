"""All experiments, in the order of the index."""

from typing import Final

from experiments import (
    cifar10,
    ensemble,
    few_labels,
    flywheel,
    hints,
    linear,
    logit_matching,
    mnist,
    mnist_omit_3,
    mnist_only_7_8,
    mnist_temperature,
    mutual,
    self_distillation,
    specialists,
    specialists_distilled,
)
from experiments.experiment import Experiment

EXPERIMENTS: Final[dict[str, Experiment]] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (
        mnist,
        mnist_temperature,
        mnist_omit_3,
        mnist_only_7_8,
        few_labels,
        ensemble,
        logit_matching,
        specialists,
        specialists_distilled,
        linear,
        cifar10,
        self_distillation,
        mutual,
        hints,
        flywheel,
    )
}
"""By name."""
