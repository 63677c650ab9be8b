"""A job of kind `transfer_set_shards`: some shards of a transfer set, for a job that spreads its questions.

Stages: check, transfer_set. The parent has chosen the images and makes the set whole.
"""

from pathlib import Path

from pydantic import JsonValue

from services.worker.stages import outcomes
from services.worker.stages.asking import teacher_client
from services.worker.stages.check import check_order
from services.worker.stages.context import JobContext
from services.worker.stages.transfer_sets.stage import ASKED, Asked, fill_here
from services.worker.stages.transfer_sets.wanted import want
from shared.contracts.jobs import JobResult, Stage
from shared.contracts.specs import TransferSetShardsSpec
from shared.jobs.checks.transfer_set_job import check_set


def fill_shards(context: JobContext, spec: TransferSetShardsSpec) -> JobResult:
    """Run the job; its result names the folder that says what was asked.

    A shard that somebody else stored meanwhile is left as it is: the same child may run twice.
    """
    teacher = context.store.teachers.described(spec.teacher, spec.teacher_digest)
    manifest = check_order(context, spec.dataset, lambda view: check_set(spec, view, teacher))
    wanted = want(context, spec.transfer_set, spec.dataset, manifest, teacher, temperature=spec.temperature)

    def build(directory: Path) -> None:
        writer = wanted.writer
        rows = sum(map(writer.rows_in, spec.shards))
        with teacher_client(context) as client:
            fill_here(wanted, writer, writer.missing_shards(spec.shards), client, rows=rows)
        asked = Asked(
            rows=wanted.inputs.rows,
            teacher_rows=wanted.answered().rows,
            rebuilt=tuple(writer.rebuilt),
        )
        outcomes.save(directory / ASKED, asked)

    inputs: dict[str, JsonValue] = {"transfer_set": wanted.digest, "shards": list(spec.shards)}
    asked_at = context.once(Stage.TRANSFER_SET, inputs, build)
    wanted.answered_at.unlink(missing_ok=True)
    return JobResult(artefact=asked_at.name)
