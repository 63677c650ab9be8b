"""The transfer-set stage: ask the teacher about every view of the selected training images, once.

What is stored is not asked for; a few stored rows are asked again first and compared. The shards that are
missing are filled here, or by child jobs on as many workers (`asking.tasks`), or by a thread beside the
training (`asking.live`, in `transfer_sets.live`). Whoever stops, or is killed, leaves whole shards.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from services.worker.stages import outcomes
from services.worker.stages.context import JobContext, seconds_of
from services.worker.stages.transfer_sets.choosing import check_student, choose
from services.worker.stages.transfer_sets.filling import fill
from services.worker.stages.transfer_sets.rescoring import Rescored, rescore
from services.worker.stages.transfer_sets.summaries import put_summary, stored_summary
from services.worker.stages.transfer_sets.wanted import Wanted, want
from shared.adapters.teacher_client import TeacherClient
from shared.artefacts.datasets import Split
from shared.contracts.datasets import DatasetManifest
from shared.contracts.jobs import ChildJob, Stage
from shared.contracts.reports import AskedTransferSet
from shared.contracts.specs import DistillationSpec, TransferSetShardsSpec
from shared.contracts.teachers import TeacherDescription
from shared.contracts.training import Asking, TransferSetSpec
from shared.contracts.transfer_sets import TopKError, TransferSetCost
from shared.transfer_set.selection import candidates
from shared.transfer_set.writer import TransferSetWriter

ASKED: Final = "asked.json"
"""In the folder of the stage: `Asked`."""


class _Plan(BaseModel):
    """What is to be asked, as the first attempt found it; what child jobs are made by must not change."""

    to_ask: tuple[int, ...]
    """Shards with rows that nobody knows."""
    rebuilt: tuple[str, ...]
    rescored: Rescored


class Asked(BaseModel):
    """What asking came to: of this job, or of one child."""

    rows: int
    """Training images in the set."""
    teacher_rows: int
    rows_from_cache: int = 0
    rebuilt: tuple[str, ...] = ()


@dataclass(frozen=True)
class BuiltTransferSet:
    """A finished transfer set and what it cost this job."""

    digest: str
    seconds: float
    rows: int
    """Training images in it."""
    teacher_rows: int
    """Views that the teacher was asked about, by all attempts at this job and by its children."""
    rows_from_cache: int
    """Views whose answer was stored: in this set, or in another of the same teacher."""
    rescored: Rescored
    rebuilt: tuple[str, ...]
    """Shards that were damaged and were written anew."""
    top_k_error: tuple[TopKError, ...] | None

    def asked(self, waited_share: float | None = None) -> AskedTransferSet:
        """Return the same for reports; of live asking with the share of training that waited."""
        return AskedTransferSet(cost=self.cost, top_k_error=self.top_k_error, waited_share=waited_share)

    @property
    def cost(self) -> TransferSetCost:
        """What it cost."""
        return TransferSetCost(
            rows_asked=self.teacher_rows,
            rows_from_cache=self.rows_from_cache,
            rows_rescored=self.rescored.rows,
            shards_rebuilt=len(self.rebuilt),
            seconds=round(self.seconds, 3),
        )


@dataclass(frozen=True)
class Planned:
    """A transfer set before anything is asked but what was asked again."""

    wanted: Wanted
    to_ask: tuple[int, ...]
    rescored: Rescored
    rebuilt: tuple[str, ...]
    seconds: float
    """Of planning, and of what was asked to choose images."""
    teacher_rows: int = 0
    """What was asked to choose images."""


def build_transfer_set(
    context: JobContext,
    spec: DistillationSpec,
    manifest: DatasetManifest,
    teacher: TeacherDescription,
    client: TeacherClient,
) -> BuiltTransferSet:
    """Build the transfer set of a distillation; see `ask_teacher`."""
    return ask_teacher(
        context,
        spec.transfer_set,
        spec.dataset,
        manifest,
        teacher,
        client,
        temperature=spec.objective.temperature,
        asking=spec.asking,
    )


def ask_teacher(
    context: JobContext,
    spec: TransferSetSpec,
    dataset: str,
    manifest: DatasetManifest,
    teacher: TeacherDescription,
    client: TeacherClient,
    *,
    temperature: float,
    asking: Asking,
) -> BuiltTransferSet:
    """Ask the teacher what is not stored yet, with several requests in flight; resumes at the shard.

    With `asking.tasks` above 1 the job waits for child jobs; it must find the same teacher afterwards.

    Args:
        context: of the job.
        spec: which images, in which views.
        dataset: its name in the store.
        manifest: of the dataset.
        teacher: as the job was checked with it.
        client: of the teacher service.
        temperature: T at which a teacher is asked whose logits do not serve any T.
        asking: how.

    Raises:
        UnknownClass, OmitAndOnly, EmptyTransferSet, LabelsMissing: nothing can be selected so.
        StudentNotFound, StudentUnusable, ClassMismatch, InputMismatch: the student that is to disagree.
        TeacherChanged: the teacher is not the one that the job was checked with.
        TeacherUnavailable: it does not answer.
        TeacherAnswerInvalid: what it answers cannot be logits.
        CachedAnswersDiffer: it says something else than what is stored.
        StoreFull: nothing more fits; what is there stays.
        ChildFailed: a child job did.
        JobWaits: not to be caught.
    """
    planned = plan_transfer_set(
        context, spec, dataset, manifest, teacher, client, temperature=temperature, asking=asking
    )
    children = _spread(planned, temperature, asking)
    return complete_transfer_set(planned, client, children)


def plan_transfer_set(
    context: JobContext,
    spec: TransferSetSpec,
    dataset: str,
    manifest: DatasetManifest,
    teacher: TeacherDescription,
    client: TeacherClient,
    *,
    temperature: float,
    asking: Asking,
) -> Planned:
    """Choose the images, find out what is missing, and compare some of what is stored; as `ask_teacher`."""
    choosers = None
    choose_now = None
    if spec.choose is not None:
        check_student(context, spec.choose, teacher)
        choosers = ask_teacher(
            context, candidates(spec), dataset, manifest, teacher, client, temperature=1.0, asking=asking
        )
        choose_now = partial(_choose, context, spec, choosers.digest)
        # Of what was just asked nothing need be asked again.
        left = max(0, asking.rescored_rows - choosers.rescored.rows)
        asking = asking.model_copy(update={"rescored_rows": left})
    wanted = want(context, spec, dataset, manifest, teacher, temperature=temperature, choose_now=choose_now)

    def look(directory: Path) -> None:
        writer = wanted.writer
        missing = writer.missing_shards()
        to_ask = tuple(number for number in missing if writer.rows_to_ask(number))
        rescored = rescore(
            writer,
            missing,
            wanted.questioner(client),
            wanted=asking.rescored_rows,
            seed=context.job_id,
            nothing_else=not to_ask,
        )
        context.leave_if_stopped()
        plan = _Plan(to_ask=to_ask, rebuilt=tuple(writer.rebuilt), rescored=rescored)
        outcomes.save(directory / "plan.json", plan)

    planned_at = context.once(Stage.TRANSFER_SET, {"plan": wanted.digest}, look)
    plan = outcomes.load(planned_at / "plan.json", _Plan)
    if plan.rescored.skipped:
        context.note(f"no stored answer was asked for again: {plan.rescored.skipped}")
    for name in plan.rebuilt:
        context.note(f"{name} of the transfer set was damaged and is written anew")
    rescored = plan.rescored
    if choosers is not None:
        rescored = Rescored(rows=rescored.rows + choosers.rescored.rows, skipped=rescored.skipped)
    return Planned(
        wanted,
        to_ask=plan.to_ask,
        rescored=rescored,
        rebuilt=plan.rebuilt,
        seconds=seconds_of(planned_at) + (choosers.seconds if choosers is not None else 0.0),
        teacher_rows=choosers.teacher_rows if choosers is not None else 0,
    )


def complete_transfer_set(
    planned: Planned, client: TeacherClient, children: Sequence[ChildJob] = ()
) -> BuiltTransferSet:
    """Fill what is still missing, and make the set whole; errors as `ask_teacher`.

    Args:
        planned: the set.
        client: of the teacher service.
        children: that were asked to fill parts of it.
    """
    wanted, context = planned.wanted, planned.wanted.context
    parts = [_left_by(context, child) for child in children]
    asked_by_children = [outcomes.load(path / ASKED, Asked) for path in parts]
    others = planned.seconds + sum(map(seconds_of, parts))

    def build(directory: Path) -> None:
        writer = wanted.writer
        fill_here(wanted, writer, writer.missing_shards(), client, rows=writer.total_rows)
        writer.finish()
        rebuilt = {*planned.rebuilt, *writer.rebuilt}
        rebuilt.update(*(child.rebuilt for child in asked_by_children))
        asked = wanted.answered().rows + sum(child.teacher_rows for child in asked_by_children)
        outcome = Asked(
            rows=wanted.inputs.rows,
            teacher_rows=planned.teacher_rows + asked,
            rows_from_cache=writer.total_rows - asked,
            rebuilt=tuple(sorted(rebuilt)),
        )
        built = _built(planned, outcome, others + context.spent_s)
        if asked or stored_summary(context.transfer_sets, wanted.digest) is None:
            put_summary(wanted, built.cost.model_copy(update={"job_id": context.job_id}))
        outcomes.save(directory / ASKED, outcome)

    stage = context.once(Stage.TRANSFER_SET, {"transfer_set": wanted.digest}, build)
    wanted.answered_at.unlink(missing_ok=True)
    return _built(planned, outcomes.load(stage / ASKED, Asked), others + seconds_of(stage))


def fill_here(
    wanted: Wanted,
    writer: TransferSetWriter,
    missing: Sequence[int],
    client: TeacherClient,
    *,
    rows: int,
) -> None:
    """Fill these shards in this process, telling progress.

    Args:
        wanted: the set.
        writer: of the set.
        missing: which shards.
        client: of the teacher service.
        rows: of the whole that is told about, those that are there already among them.

    Raises:
        JobStopped: the supervisor asked the training process to stop; others as `ask_teacher`.
    """
    context = wanted.context
    done = rows - sum(map(writer.rows_to_ask, missing))
    context.progress(Stage.TRANSFER_SET, done, rows, "rows")

    def told(answered: int) -> None:
        nonlocal done
        done += answered
        context.progress(Stage.TRANSFER_SET, done, rows, "rows")

    rng = random.Random(context.job_id)
    fill(
        writer,
        missing,
        wanted.questioner(client),
        wanted.answered(),
        told=told,
        elsewhere=lambda left: rng.sample(left, len(left)),
    )
    context.leave_if_stopped()


def _spread(planned: Planned, temperature: float, asking: Asking) -> tuple[ChildJob, ...]:
    """Return the children among which the shards were divided, once they have ended; none where one does."""
    wanted, to_ask = planned.wanted, planned.to_ask
    parts = min(asking.tasks, len(to_ask))
    if parts < 2:
        return ()
    return wanted.context.children(
        [
            TransferSetShardsSpec(
                name=wanted.teacher.name,
                teacher=wanted.teacher.name,
                teacher_digest=wanted.teacher.digest,
                dataset=wanted.dataset,
                transfer_set=wanted.inputs.spec,
                temperature=temperature,
                shards=to_ask[part::parts],
            )
            for part in range(parts)
        ]
    )


def _left_by(context: JobContext, child: ChildJob) -> Path:
    assert child.result is not None, "children that did not succeed raise"
    assert child.result.artefact is not None, "each leaves a folder"
    return context.child_files(child).directory / child.result.artefact


def _choose(
    context: JobContext, spec: TransferSetSpec, asked: str, rows: NDArray[np.int64], train: Split
) -> NDArray[np.int64]:
    assert spec.choose is not None
    stored = context.transfer_sets.open(asked)
    return choose(context, spec.choose, rows, train.images, lambda block: stored.logits[0, block])


def _built(planned: Planned, asked: Asked, seconds: float) -> BuiltTransferSet:
    manifest = planned.wanted.context.transfer_sets.manifest(planned.wanted.digest)
    return BuiltTransferSet(
        digest=planned.wanted.digest,
        seconds=seconds,
        rows=asked.rows,
        teacher_rows=asked.teacher_rows,
        rows_from_cache=asked.rows_from_cache,
        rescored=planned.rescored,
        rebuilt=asked.rebuilt,
        top_k_error=manifest.top_k_error,
    )
