"""Which code runs which kind of job."""

from collections.abc import Callable
from typing import Any, Final

from services.worker.kinds.codistillation import codistil
from services.worker.kinds.codistillation_member import train_member
from services.worker.kinds.distillation import distil
from services.worker.kinds.mutual import learn_mutually
from services.worker.kinds.redistillation import redistil
from services.worker.kinds.self_distillation import distil_itself
from services.worker.kinds.specialist import train_specialist
from services.worker.kinds.specialists import train_specialists
from services.worker.kinds.sweep import sweep
from services.worker.kinds.sweep_trials import train_trials
from services.worker.kinds.teacher import train_teacher
from services.worker.kinds.teacher_check import check_teacher
from services.worker.kinds.teacher_import import import_teacher
from services.worker.kinds.transfer_set import build_set
from services.worker.kinds.transfer_set_shards import fill_shards
from services.worker.stages.context import JobContext
from shared.contracts.jobs import JobResult

RUNNERS: Final[dict[str, Callable[[JobContext, Any], JobResult]]] = {
    "teacher": train_teacher,
    "teacher_import": import_teacher,
    "teacher_check": check_teacher,
    "distillation": distil,
    "self_distillation": distil_itself,
    "mutual": learn_mutually,
    "codistillation": codistil,
    "codistillation_member": train_member,
    "specialists": train_specialists,
    "specialist": train_specialist,
    "sweep": sweep,
    "sweep_trials": train_trials,
    "redistillation": redistil,
    "transfer_set": build_set,
    "transfer_set_shards": fill_shards,
}
"""By the spec's `kind`; each takes the spec of that kind."""


def run(context: JobContext) -> JobResult:
    """Run the job to its end; every stage that an earlier attempt finished is used as it is."""
    return RUNNERS[context.order.spec.kind](context, context.order.spec)
