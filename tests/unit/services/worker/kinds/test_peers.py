"""Jobs whose nets teach themselves or each other, whole, in this process."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from services.worker.kinds import codistillation_member
from services.worker.kinds.registry import run
from services.worker.stages import outcomes
from services.worker.stages.context import JobWaits
from services.worker.stages.training import preprocessing_of
from shared.contracts.architectures import Mlp
from shared.contracts.reports import CodistillationReport, MutualReport, SelfDistillationReport
from shared.contracts.specs import CodistillationSpec, MutualSpec, SelfDistillationSpec
from shared.contracts.training import Budget, Objective, Regularisation, TransferSetSpec
from shared.distillation.cohort import TrainedNet
from shared.distillation.peers import stored_logits
from shared.errors import InvalidRequest
from shared.models.checkpoints import read_tensors
from shared.models.network import Network
from tests.support.kinds import Bench, one_thread

NETWORK = Mlp(hidden_units=(8,))
BUDGET = Budget(epochs=3, batch_size=32, learning_rate=1e-2)
SELF = SelfDistillationSpec(
    name="self", dataset="quarters", network=NETWORK, budget=BUDGET, generations=2, seeds=(0, 1)
)
MUTUAL = MutualSpec(name="peer", dataset="quarters", network=NETWORK, budget=BUDGET, members=3, seeds=(0, 1))
COHORT = CodistillationSpec(
    name="far", dataset="quarters", network=NETWORK, budget=BUDGET, members=2, seeds=(0, 1)
)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with one_thread():
        yield Bench(tmp_path, monkeypatch, checkpoint_s=0)


def nets_of(bench: Bench, job_id: str) -> dict[tuple[str, int], TrainedNet]:
    folders = bench.store.job(job_id).directory.glob("train-*")
    return {(net.arm, net.seed): net for folder in folders for net in outcomes.load_nets(folder)}


def same(left: TrainedNet, right: TrainedNet) -> bool:
    return all(torch.equal(tensor, right.tensors[name]) for name, tensor in left.tensors.items())


REPORTS = [(SELF, SelfDistillationReport), (MUTUAL, MutualReport), (COHORT, CodistillationReport)]


@pytest.mark.parametrize(("spec", "contract"), REPORTS)
def test_the_job_ends_in_a_verdict_over_the_seeds_a_report_and_a_student(bench: Bench, spec, contract):
    result = bench.run("j-1", spec)
    files = bench.store.job("j-1")
    report = contract.model_validate_json(files.report_json.read_bytes())
    assert [one.seed for one in report.comparison.seeds] == [0, 1]
    assert result.verdict == report.comparison.verdict.value
    card = bench.store.students.card(result.student)
    assert (card.version, card.teacher, card.transfer_set_digest) == (f"{spec.name}-1", None, None)
    assert card.architecture == NETWORK
    assert card.evaluation == report.taught
    assert card.comparison == report.comparison
    assert {"model.onnx", "report.md", "confusion.png"} <= set(card.files)
    figures = {(net.arm, net.seed): net for net in report.nets}
    best = max(figures["taught", seed].validation_accuracy for seed in spec.seeds)
    assert figures["taught", report.seed].validation_accuracy == best
    assert report.taught.accuracy == figures["taught", report.seed].accuracy
    assert report.untaught.accuracy == figures["untaught", report.seed].accuracy
    page = files.report_md.read_text()
    assert page.startswith(f"# Student {spec.name}-1\n\n**{report.comparison.verdict}**")
    assert report.cost.teacher_rows == 0


# --- generations -------------------------------------------------------------------------------------------


def test_each_generation_starts_alike_and_is_taught_by_the_one_before_of_its_seed(bench: Bench):
    bench.run("j-1", SELF)
    nets = nets_of(bench, "j-1")
    arms = ("untaught", "generation-1", "taught")
    assert set(nets) == {(arm, seed) for arm in arms for seed in (0, 1)}
    network = Network(NETWORK, bench.manifest.input, len(bench.manifest.classes))
    images = torch.from_numpy(bench.store.datasets.load("quarters", "train").images.copy())
    preprocessing = preprocessing_of(bench.manifest)
    told = [
        read_tensors(folder / "logits.safetensors")["logits"][0]
        for folder in bench.store.job("j-1").directory.glob("transfer_set-*")
    ]
    for arm in ("untaught", "generation-1"):  # each of them taught the next, and nobody else did
        for seed in (0, 1):
            tensors = nets[arm, seed].tensors
            said = stored_logits(network, tensors, images, preprocessing, torch.device("cpu"))
            assert sum(torch.equal(said, logits) for logits in told) == 1
    assert len(told) == 4
    # A last generation that minds hard labels alone is the untaught twin once more: it started as that did.
    alike = SELF.model_copy(
        update={"generations": 1, "objective": Objective(soft_weight=1e-30, hard_weight=1.0, temperature=1.0)}
    )
    bench.run("j-2", alike)
    again = nets_of(bench, "j-2")
    for seed in (0, 1):
        for name, tensor in again["untaught", seed].tensors.items():
            torch.testing.assert_close(again["taught", seed].tensors[name], tensor, atol=1e-4, rtol=1e-3)
    # A longer line begins with the same generations.
    assert all(same(nets["untaught", s], again["untaught", s]) for s in (0, 1))


def test_generations_learn_from_the_views_and_classes_that_the_transfer_set_takes(bench: Bench):
    wanted = TransferSetSpec(views=2, jitter_px=1, flip=True, omit=("d",), share=0.5, label_share=0.5)
    bench.run("j-1", SELF.model_copy(update={"transfer_set": wanted, "generations": 1}))
    (logits,) = [
        read_tensors(folder / "logits.safetensors")["logits"]
        for folder in bench.store.job("j-1").directory.glob("transfer_set-*")
    ][:1]
    labels = bench.store.datasets.load("quarters", "train").labels
    rows = int((labels != 3).sum())
    assert logits.shape[1] in (rows // 2, (rows + 1) // 2)
    assert (logits.shape[0], logits.shape[2]) == (2, 4)
    assert logits.float().mean(-1).abs().max() < 0.01
    assert not torch.equal(logits[0], logits[1]), "another view, another answer"


# --- cohorts -----------------------------------------------------------------------------------------------


def test_the_members_of_a_cohort_learn_from_each_other_and_the_twin_learns_alone(bench: Bench):
    bench.run("j-1", MUTUAL)
    nets = nets_of(bench, "j-1")
    arms = ("taught", "member-1", "member-2", "untaught")
    assert set(nets) == {(arm, seed) for arm in arms for seed in (0, 1)}
    # With next to no weight on the others the first member becomes the twin.
    bench.run("j-2", MUTUAL.model_copy(update={"soft_weight": 1e-30}))
    alone = nets_of(bench, "j-2")
    for seed in (0, 1):
        assert same(nets["untaught", seed], alone["untaught", seed])
        assert not same(nets["taught", seed], nets["untaught", seed])
        for name, tensor in alone["untaught", seed].tensors.items():
            torch.testing.assert_close(alone["taught", seed].tensors[name], tensor, atol=1e-4, rtol=1e-3)


# --- co-distillation ---------------------------------------------------------------------------------------


def exchanges(bench: Bench, job_id: str) -> dict[tuple[int, int], object]:
    content = bench.store.job(job_id).report_json.read_bytes()
    return {
        (one.member, one.seed): one for one in CodistillationReport.model_validate_json(content).exchanges
    }


def test_with_one_worker_the_first_member_finds_no_copies_and_the_last_all_of_them(bench: Bench):
    bench.run("j-1", COHORT)
    assert bench.runs == ["j-1", "j-1-000", "j-1-001", "j-1"]
    found = exchanges(bench, "j-1")
    for seed in (0, 1):
        first, last = found[0, seed], found[1, seed]
        # A burn-in of one epoch, then an exchange at the start of each of the other two.
        assert (first.exchanges, first.found_none, first.copies) == (2, 2, 0)
        # The other is done: its copy is of epoch 3, taken at 1 and at 2.
        assert (last.exchanges, last.found_none, last.copies, last.mean_age_epochs) == (2, 0, 2, -1.5)
    report = CodistillationReport.model_validate_json(bench.store.job("j-1").report_json.read_bytes())
    assert report.members == ("j-1-000", "j-1-001")


def test_the_last_member_stands_for_the_cohort_against_a_twin_of_its_first_weights(bench: Bench):
    bench.run("j-1", COHORT.model_copy(update={"soft_weight": 1e-30}))
    twins, last = nets_of(bench, "j-1"), nets_of(bench, "j-1-001")
    for seed in (0, 1):
        for name, tensor in twins["untaught", seed].tensors.items():
            torch.testing.assert_close(last["member-1", seed].tensors[name], tensor, atol=1e-4, rtol=1e-3)
    bench.run("j-2", COHORT)
    taught = nets_of(bench, "j-2-001")
    assert not any(same(taught["member-1", seed], twins["untaught", seed]) for seed in (0, 1))


def test_members_that_train_at_the_same_time_take_each_others_newest_copies(bench: Bench):
    """Two workers in step: whenever member 0 asks for copies, member 1 does an epoch first."""
    order = COHORT.model_copy(update={"burn_in_epochs": 0})
    with pytest.raises(JobWaits):
        run(bench.context("j-1", order))
    first, second = (message.child for message in bench.sent if message.child is not None)
    taken: list[tuple[int, int]] = []
    newest = codistillation_member.CopyExchange.newest

    def in_step(self, seed: int, member: int):
        found = newest(self, seed, member)
        if member == 1:
            epoch = 0 if found is None else found[0]
            self.leave(seed, 1, epoch + 1, copy_of(bench, seed))
            found = newest(self, seed, member)
            taken.append((seed, found[0]))
        return found

    bench.monkeypatch.setattr(codistillation_member.CopyExchange, "newest", in_step)
    bench.run("j-1-000", first)
    assert taken == [(seed, epoch) for seed in (0, 1) for epoch in (1, 2, 3)]
    assert second.member == 1


def copy_of(bench: Bench, seed: int) -> bytes:
    network = Network(NETWORK, bench.manifest.input, len(bench.manifest.classes))
    return codistillation_member.to_bytes(network.initial(seed + 100))


def test_a_member_that_dies_goes_on_from_its_checkpoint_and_looks_for_copies_at_once(bench: Bench):
    order = COHORT.model_copy(update={"exchange_epochs": 2, "budget": Budget(epochs=6, batch_size=32)})
    refresh, deaths = codistillation_member._Exchange.refresh, []

    def dying(self, epoch: int, nets):
        if (self._member, self._seed, epoch) == (1, 1, 3) and not deaths:
            deaths.append(epoch)
            raise MemoryError("the process dies")
        return refresh(self, epoch, nets)

    bench.monkeypatch.setattr(codistillation_member._Exchange, "refresh", dying)
    with pytest.raises(MemoryError):
        bench.run("j-1", order)
    bench.run("j-1", order)
    assert deaths == [3]
    found = exchanges(bench, "j-1")
    # At 1, the end of the burn-in, then at 2 and 4; after the death at 3 too, with nothing to go on with.
    assert found[1, 0].exchanges == 3
    assert found[1, 1].exchanges == 4
    assert found[1, 1].found_none == 0


@pytest.mark.parametrize("spec", [SELF, COHORT])
def test_the_worker_refuses_what_the_gateway_refuses(bench: Bench, spec):
    with pytest.raises(InvalidRequest):
        bench.run("j-1", spec.model_copy(update={"regularisation": Regularisation(jitter_px=1)}))
