"""A computation and an action for the tests of the runner."""

from typing import Any

from experiments.experiment import Form, Outcomes
from experiments.result import Values


def run(_form: Form) -> dict[str, Values]:
    return {"n": (4.0, 5.0)}


def jobs_so_far(form: Form, api: Any, outcomes: Outcomes) -> dict[str, Values]:
    return {"jobs": (float(len(api.views)), float(len(outcomes.reports)))}
