"""What every experiment asks for, in both forms: valid by the contracts, and runnable in its order."""

import importlib
import inspect

import pytest
from pydantic import TypeAdapter

from experiments.experiment import Action, Computation, Experiment, Form, JobStep
from experiments.registry import EXPERIMENTS
from experiments.runner import datasets_of
from shared.contracts.datasets import BUILTIN_DATASETS
from shared.contracts.specs import DistillationSpec, JobSpec

FORMS = [Form(), Form(reduced=True), Form(reduced=True, seeds=(5, 6))]
SPECS: TypeAdapter[JobSpec] = TypeAdapter(JobSpec)

every = pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=list(EXPERIMENTS))
each_form = pytest.mark.parametrize("form", FORMS, ids=["full", "reduced", "other seeds"])


def jobs(experiment: Experiment, form: Form) -> list[JobStep]:
    return [step for step in experiment.steps(form) if isinstance(step, JobStep)]


def test_there_is_every_row_of_the_table():
    assert list(EXPERIMENTS) == [
        "mnist",
        "mnist-temperature",
        "mnist-omit-3",
        "mnist-only-7-8",
        "few-labels",
        "ensemble",
        "logit-matching",
        "specialists",
        "specialists-distilled",
        "linear",
        "cifar10",
        "self",
        "mutual",
        "hints",
        "flywheel",
    ]


@every
@each_form
def test_every_spec_passes_the_contract_as_it_is_sent(experiment: Experiment, form: Form):
    for step in jobs(experiment, form):
        assert SPECS.validate_json(step.spec.model_dump_json()) == step.spec


@every
@each_form
def test_a_step_builds_on_earlier_steps_only_and_its_teacher_is_one_of_them(
    experiment: Experiment, form: Form
):
    made: dict[str, str] = {}
    for step in experiment.steps(form):
        assert step.name not in made
        if isinstance(step, JobStep):
            assert set(step.after) <= set(made)
            teacher = getattr(step.spec, "teacher", getattr(step.spec, "generalist", None))
            if teacher is not None:
                assert teacher in {made[name] for name in step.after}
        made[step.name] = step.spec.name if isinstance(step, JobStep) else ""


@every
def test_the_two_forms_share_no_name_so_that_neither_takes_the_others_teacher(experiment: Experiment):
    full, reduced = ({step.spec.name for step in jobs(experiment, Form(reduced=r))} for r in (False, True))
    assert not full & reduced


@every
@each_form
def test_jobs_are_named_as_the_experiments_own(experiment: Experiment, form: Form):
    assert all(step.spec.name.startswith("exp-") for step in jobs(experiment, form))


@every
@each_form
def test_datasets_are_built_in_or_made_by_the_experiment_itself(experiment: Experiment, form: Form):
    assert datasets_of(experiment, form) <= set(BUILTIN_DATASETS)
    for step in experiment.steps(form):
        if isinstance(step, Action):
            assert all(name.startswith("exp-") for name in step.makes)


@every
def test_students_are_trained_with_the_seeds_asked_for(experiment: Experiment):
    for step in jobs(experiment, Form(seeds=(7, 8, 9, 10))):
        if isinstance(step.spec, DistillationSpec):
            assert step.spec.seeds == (7, 8, 9, 10)


@every
def test_the_reduced_form_says_what_it_leaves_out(experiment: Experiment):
    assert experiment.reduced
    assert experiment.minutes[1] <= experiment.minutes[0]


def test_computations_need_no_torch_to_be_listed():
    computed = [s for e in EXPERIMENTS.values() for s in e.steps(Form()) if isinstance(s, Computation)]
    assert {one.module for one in computed} == {"experiments.gradients", "experiments.linear_trials"}


def test_actions_are_functions_of_their_modules():
    actions = [s for e in EXPERIMENTS.values() for s in e.steps(Form()) if isinstance(s, Action)]
    assert actions
    for one in actions:
        taken = inspect.signature(getattr(importlib.import_module(one.module), one.function)).parameters
        assert list(taken) == ["form", "api", "outcomes"]
