"""A job of kind `sweep_trials`: a part of the trials of one network, made by a job of kind `sweep`.

Rounds of trials come from the network's study on Redis. All nets of a round are one cohort, trained together
on the transfer set that the parent built; the first round of the first part trains the untaught twins, too.
Where a loss is not finite, the round is trained again without that trial. A round is on disk before its
values are told, so that a job that died goes on with what was done.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from optuna.storages import JournalStorage
from pydantic import BaseModel, JsonValue

from services.worker.stages import outcomes
from services.worker.stages.check import check_teacher_order
from services.worker.stages.context import JobContext
from services.worker.stages.training import held_out, labelled_examples, preprocessing_of
from services.worker.stages.transfer_sets.examples import taught_examples
from shared.adapters.redis_studies import RedisJournal
from shared.artefacts.files import digest_of
from shared.artefacts.tensors import Array, read_tensors, write_tensors
from shared.contracts.jobs import JobResult, Stage
from shared.contracts.reports import Divergence, SweepTrial
from shared.contracts.specs import SweepTrialsSpec
from shared.contracts.training import Objective
from shared.distillation.cohort import HARD_LABELS, Net, TrainedNet, train_cohort
from shared.distillation.examples import Examples
from shared.distillation.inference import net_logits
from shared.distillation.sweep import (
    Trial,
    log_by_our_handlers,
    mean,
    next_round,
    open_study,
    tell,
    tell_known,
    trials_wanted,
)
from shared.errors import Diverged
from shared.models.devices import torch_device
from shared.models.network import Network

TAUGHT = "taught"
UNTAUGHT = "untaught"

_TOGETHER_BYTES = 1 << 30
"""What the nets of a round may take in memory, and in a checkpoint."""
_MOST_TOGETHER = 64
_COPIES = 5
"""Of each net while it is trained: weights, gradients, two moments, the best so far."""
_FLOAT32_BYTES = 4


class TrialsOutcome(BaseModel):
    """What the parent reads, `trials.json`; beside it the nets of the best trial and the untaught ones."""

    trials: tuple[SweepTrial, ...]
    best: int | None
    """None where every trial diverged."""
    untaught_validation_accuracies: tuple[float, ...]
    """Empty but in the first part."""
    untaught_test_accuracies: tuple[float, ...]


class _Told(BaseModel):
    number: int
    temperature: float
    soft_weight: float
    hard_weight: float
    validation_accuracies: tuple[float, ...]
    diverged: Divergence | None = None


class _Round(BaseModel):
    """`round.json`; in `predictions.safetensors` each net's classes of the test images, by arm and seed."""

    trials: tuple[_Told, ...]
    best: int | None
    """The trial of the round whose nets are kept; None where all diverged."""
    untaught_validation_accuracies: tuple[float, ...] | None


def train_trials(context: JobContext, spec: SweepTrialsSpec) -> JobResult:
    """Run the job; rounds that an earlier attempt finished are used as they are."""
    manifest = check_teacher_order(context, spec)
    examples = taught_examples(
        labelled_examples(context, spec.dataset),
        context.transfer_sets.open(spec.transfer_set),
        # Any: several temperatures are refused of a teacher whose logits do not serve all.
        temperature=_some_temperature(spec),
    )
    network = Network(spec.network, manifest.input, len(manifest.classes))
    job = _Sweeping(context, spec, network, examples)
    log_by_our_handlers()
    journal = RedisJournal(context.settings.redis_url, spec.study, while_waiting=context.leave_if_stopped)
    try:
        study = open_study(spec.study, JournalStorage(journal))
        tell_known(study, job.told())
        while trials := next_round(study, spec.order, job.most, part=spec.part, parts=spec.parts):
            done = job.train(trials)
            for trial, told in zip(trials, done.trials, strict=True):
                tell(study, trial.number, told.validation_accuracies)
    finally:
        journal.close()
    return JobResult(artefact=job.evaluate().name)


class _Sweeping:
    """The stages of one part of a network's trials."""

    def __init__(
        self, context: JobContext, spec: SweepTrialsSpec, network: Network, examples: Examples
    ) -> None:
        self.context = context
        self.spec = spec
        self.order = spec.order
        self.network = network
        self.examples = examples
        manifest = context.store.datasets.get(spec.dataset)
        self.preprocessing = preprocessing_of(manifest)
        self.device = torch_device(context.settings.device)
        nets = min(_MOST_TOGETHER, _TOGETHER_BYTES // (network.parameters * _COPIES * _FLOAT32_BYTES))
        self.most = max(1, nets // len(self.order.seeds))

    def rounds(self) -> dict[Path, _Round]:
        """Return the rounds on disk, by their folders."""
        folders = sorted(self.context.files.directory.glob(f"{Stage.TRAIN.value}-*"))
        return {folder: outcomes.load(folder / "round.json", _Round) for folder in folders}

    def told(self) -> dict[int, tuple[float, ...]]:
        """Return what is known of trials, by number: validation accuracies, one a seed."""
        return {
            trial.number: trial.validation_accuracies
            for one in self.rounds().values()
            for trial in one.trials
        }

    def train(self, trials: Sequence[Trial]) -> _Round:
        """Train a round's nets together, unless that was done before."""
        known = self.rounds()
        with_twins = self.spec.part == 0 and not any(
            one.untaught_validation_accuracies for one in known.values()
        )
        inputs: dict[str, JsonValue] = {
            "spec": self.spec.model_dump(mode="json"),
            "trials": [[trial.number, trial.objective.model_dump(mode="json")] for trial in trials],
            "untaught": with_twins,
        }
        objectives = {_arm(trial.number): trial.objective for trial in trials}
        if with_twins:
            objectives[UNTAUGHT] = HARD_LABELS
        checkpoints = self.context.files.checkpoints / digest_of(inputs)[:16]
        before = sum(len(one.trials) for one in known.values())
        folder = self.context.once(
            Stage.TRAIN, inputs, lambda aside: self._train(aside, trials, objectives, checkpoints, before)
        )
        # A sweep has many rounds, and a round on disk needs no checkpoint any more.
        shutil.rmtree(checkpoints, ignore_errors=True)
        return outcomes.load(folder / "round.json", _Round)

    def evaluate(self) -> Path:
        """Compare what all nets said of the test images with the labels, once, and gather what is to stay."""
        rounds = self.rounds()
        inputs: dict[str, JsonValue] = {"rounds": [folder.name for folder in rounds]}
        return self.context.once(Stage.EVALUATE, inputs, lambda aside: self._evaluate(aside, rounds))

    def _train(
        self,
        aside: Path,
        trials: Sequence[Trial],
        objectives: Mapping[str, Objective],
        checkpoints: Path,
        before: int,
    ) -> None:
        """Train all arms together, and where that ends in a loss that is not finite its halves apart.

        What a net becomes does not depend on its company, so in the end only the trials that diverge are
        missing.
        """
        trained: list[TrainedNet] = []
        diverged: dict[str, Divergence] = {}
        left = [list(objectives)]
        while left:
            arms = left.pop()
            done = before + len({net.arm for net in trained} - {UNTAUGHT}) + len(diverged)
            try:
                trained += self._together({arm: objectives[arm] for arm in arms}, checkpoints, done)
            except Diverged as error:
                if arms == [UNTAUGHT]:
                    raise  # the budget suits nobody
                if len(arms) == 1:
                    # Not the error itself: its traceback would keep the nets in memory.
                    diverged[arms[0]] = Divergence(epoch=error.epoch, step=error.step)
                    self.context.note(f"{arms[0]} diverged, the others go on: {error}")
                else:
                    half = len(arms) // 2
                    left += [arms[half:], arms[:half]]
        self._save(aside, trials, trained, diverged)

    def _together(
        self, objectives: Mapping[str, Objective], checkpoints: Path, done: int
    ) -> tuple[TrainedNet, ...]:
        """Train these arms with every seed as one cohort, after so many trials of this part."""
        epochs = self.order.budget.epochs
        seeds = self.order.seeds
        nets = [Net(arm, seed, objective) for arm, objective in objectives.items() for seed in seeds]
        here = len(objectives.keys() - {UNTAUGHT})
        # A trial that was in two rounds, because its job died between them, is done twice.
        wanted = max(trials_wanted(self.order, part=self.spec.part, parts=self.spec.parts), done + here)

        def on_epoch(epoch: int, _epochs: int, metrics: dict[str, float]) -> None:
            reached = [value for name, value in metrics.items() if name.endswith("_validation_accuracy")]
            self.context.progress(
                Stage.TRAIN,
                done * epochs + epoch * here,
                wanted * epochs,
                "epochs",
                {"best_validation_accuracy": max(reached), "nets_together": float(len(nets))},
                may_stop=False,
            )

        self.context.progress(Stage.TRAIN, done * epochs, wanted * epochs, "epochs")
        return train_cohort(
            self.spec.network,
            nets,
            self.examples,
            classes=self.network.classes,
            preprocessing=self.preprocessing,
            budget=self.order.budget,
            device=self.device,
            checkpoints=checkpoints / digest_of(list(objectives))[:16],
            checkpoint_every_s=self.context.settings.checkpoint_s,
            on_epoch=on_epoch,
            should_stop=self.context.stop.is_set,
        )

    def _save(
        self,
        aside: Path,
        trials: Sequence[Trial],
        trained: Sequence[TrainedNet],
        diverged: Mapping[str, Divergence],
    ) -> None:
        by_arm: dict[str, list[TrainedNet]] = {}
        for net in trained:
            by_arm.setdefault(net.arm, []).append(net)
        told = tuple(
            _Told(
                number=trial.number,
                temperature=trial.objective.temperature,
                soft_weight=trial.objective.soft_weight,
                hard_weight=trial.objective.hard_weight,
                validation_accuracies=_accuracies(by_arm.get(_arm(trial.number), ())),
                diverged=diverged.get(_arm(trial.number)),
            )
            for trial in trials
        )
        best = _best(told)
        taught = by_arm[_arm(best)] if best is not None else []
        kept = [_renamed(net, TAUGHT) for net in taught] + by_arm.get(UNTAUGHT, [])
        outcomes.save_nets(aside, tuple(kept))
        write_tensors(aside / "predictions.safetensors", self._predictions(trained))
        untaught = _accuracies(by_arm[UNTAUGHT]) if UNTAUGHT in by_arm else None
        outcomes.save(
            aside / "round.json", _Round(trials=told, best=best, untaught_validation_accuracies=untaught)
        )

    def _predictions(self, trained: Sequence[TrainedNet]) -> dict[str, Array]:
        """Return each net's classes of the test images; their labels are not looked at here."""
        test = self.context.store.datasets.load(self.spec.dataset, "test")
        images = outcomes.tensor(test.images).to(self.device)
        found = {}
        for net in trained:
            tensors = {name: tensor.to(self.device) for name, tensor in net.tensors.items()}
            logits = net_logits(self.network, tensors, images, self.preprocessing)
            found[f"{net.arm}/{net.seed}"] = logits.argmax(-1).to(torch.int32).cpu().numpy()
        return found

    def _evaluate(self, aside: Path, rounds: Mapping[Path, _Round]) -> None:
        self.context.progress(Stage.EVALUATE, 0, 1, "sweeps")
        _, truth = held_out(self.context, self.spec.dataset)
        labels = truth.numpy()
        predictions: dict[str, Array] = {}
        for folder in rounds:
            predictions |= read_tensors(folder / "predictions.safetensors")[0]

        def reached(arm: str) -> tuple[float, ...]:
            """Return none for an arm that diverged, or is of another part."""
            answers = [predictions.get(f"{arm}/{seed}") for seed in self.order.seeds]
            return tuple(float(np.mean(answer == labels)) for answer in answers if answer is not None)

        # A trial that was in two rounds, because its job died between them, counts once.
        told = {trial.number: trial for one in rounds.values() for trial in one.trials}
        best = _best([told[number] for number in sorted(told)])
        nets: list[TrainedNet] = []
        twins: tuple[float, ...] = ()
        for folder, one in rounds.items():
            if best is not None and one.best == best and not any(net.arm == TAUGHT for net in nets):
                nets += [net for net in outcomes.load_nets(folder) if net.arm == TAUGHT]
            if one.untaught_validation_accuracies is not None and not twins:
                nets += [net for net in outcomes.load_nets(folder) if net.arm == UNTAUGHT]
                twins = one.untaught_validation_accuracies
        outcomes.save_nets(aside, tuple(nets))
        outcome = TrialsOutcome(
            trials=tuple(
                SweepTrial(**told[number].model_dump(), test_accuracies=reached(_arm(number)))
                for number in sorted(told)
            ),
            best=best,
            untaught_validation_accuracies=twins,
            untaught_test_accuracies=reached(UNTAUGHT),
        )
        outcomes.save(aside / "trials.json", outcome)
        self.context.progress(Stage.EVALUATE, 1, 1, "sweeps")


def _best(trials: Sequence[_Told]) -> int | None:
    """Return the number of the trial of the highest mean validation accuracy, the first of equals."""
    whole = [trial for trial in trials if trial.diverged is None]
    best = max(whole, key=lambda trial: mean(trial.validation_accuracies), default=None)
    return best.number if best is not None else None


def _accuracies(nets: Sequence[TrainedNet]) -> tuple[float, ...]:
    return tuple(net.validation_accuracy or 0.0 for net in nets)


def _arm(number: int) -> str:
    return f"trial-{number}"


def _some_temperature(spec: SweepTrialsSpec) -> float:
    given = spec.order.temperatures
    return given.values[0] if given.values else 1.0


def _renamed(net: TrainedNet, arm: str) -> TrainedNet:
    return replace(net, arm=arm, curve=net.curve.model_copy(update={"arm": arm}))
