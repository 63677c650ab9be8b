"""Answers in other forms than one tensor: the largest logits alone, and answers that are yet to come."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from shared.contracts.training import Regularisation
from shared.distillation.cohort import Net, TrainingStopped, train_cohort
from shared.distillation.examples import Batches
from shared.distillation.teacher_answers import SparseLogits
from tests.support.cohorts import ARCHITECTURE, BUDGET, CLASSES, PREPROCESSING, TAUGHT, examples, nets

VIEWS, ROWS, MANY = 3, 200, 11


def zero_mean_logits() -> torch.Tensor:
    logits = 3 * torch.randn(VIEWS, ROWS, MANY, generator=torch.Generator().manual_seed(0))
    return logits - logits.mean(-1, keepdim=True)


def kept(logits: torch.Tensor, k: int) -> SparseLogits:
    """Keep the k largest, and give the others equal shares of their mass."""
    order = logits.argsort(dim=-1, descending=True)
    others = logits.gather(-1, order[..., k:])
    left = max(1, logits.shape[-1] - k)
    rest = others.logsumexp(-1) - torch.tensor(float(left)).log() if k < logits.shape[-1] else logits[..., 0]
    indices = order[..., :k]
    return SparseLogits(logits.shape[-1], indices.int(), logits.gather(-1, indices).half(), rest.half())


def test_all_logits_kept_are_all_logits():
    logits = zero_mean_logits()
    sparse = kept(logits, MANY)
    assert sparse.shape == (VIEWS, ROWS, MANY)
    assert torch.equal(sparse.float(), logits.half().float())


def test_the_classes_that_are_not_kept_share_the_mass_they_had():
    logits = zero_mean_logits()
    dense = kept(logits, 4).float()
    probabilities, given = F.softmax(dense, -1), F.softmax(logits, -1)
    largest = logits.topk(4).indices
    torch.testing.assert_close(
        probabilities.gather(-1, largest), given.gather(-1, largest), atol=2e-3, rtol=0
    )
    masses = [1 - one.gather(-1, largest).sum(-1) for one in (probabilities, given)]
    torch.testing.assert_close(*masses, atol=2e-3, rtol=0)
    others = torch.ones_like(logits, dtype=torch.bool).scatter(-1, largest, False)
    shares = probabilities[others].view(VIEWS, ROWS, MANY - 4)
    assert torch.equal(shares.amax(-1), shares.amin(-1))


def test_rows_of_sparse_logits_are_taken_together():
    sparse = kept(zero_mean_logits(), 4)
    rows = torch.tensor([[5, 3], [3, 199]])
    assert torch.equal(sparse[1][rows].float(), sparse.float()[1, rows])


def batch_source(data) -> Batches:
    return Batches(data, PREPROCESSING, seeds=(0, 1), batch_size=64, jitter_px=0, device=torch.device("cpu"))


def test_batches_of_sparse_logits_are_those_of_their_dense_rows():
    sparse = kept(zero_mean_logits(), 4)
    data = replace(examples(views=None), labels=torch.arange(ROWS))
    source = batch_source(replace(data, teacher_logits=sparse, logits_temperature=2.0))
    for epoch, view in ((0, 0), (1, 1), (5, 2)):
        source.start_epoch(epoch)
        batch = source.batch(1, source.lanes((1, 0)))
        assert batch.labels is not None
        torch.testing.assert_close(batch.teacher_logits, 2 * sparse.float()[view, batch.labels])


class Live:
    """Answers that are there at once, and a record of what was asked for."""

    def __init__(self, logits: torch.Tensor | SparseLogits, *, stop_at: int | None = None) -> None:
        self._logits = logits
        self._stop_at = stop_at
        self.views = logits.shape[0]
        self.digest = "ab" * 32
        self.asked: list[int] = []

    def logits(self, view: int) -> torch.Tensor | SparseLogits:
        if len(self.asked) == self._stop_at:
            raise TrainingStopped
        self.asked.append(view)
        return self._logits[view]


def train(data, **options):
    settings = {"classes": CLASSES, "preprocessing": PREPROCESSING, "budget": BUDGET, **options}
    return train_cohort(ARCHITECTURE, nets(0, 1), data, **settings)


def assert_equal(ours, theirs) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.tensors.keys() == other.tensors.keys()
        assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


def test_an_epoch_asks_for_its_own_view_alone():
    data = examples(views=3)
    live = Live(data.teacher_logits)
    source = batch_source(replace(data, teacher_logits=None, live=live))
    for epoch in range(4):
        source.start_epoch(epoch)
        assert live.asked == [0, 1, 2, 0][: epoch + 1]


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_live_answers_teach_the_same_as_stored_ones(form):
    data = examples(views=3)
    logits = data.teacher_logits if form == "dense" else kept(data.teacher_logits.float(), 2)
    stored = replace(data, teacher_logits=logits)
    live = replace(data, teacher_logits=None, live=Live(logits))
    assert_equal(train(stored), train(live))


def test_a_training_that_is_stopped_while_it_waits_goes_on_from_there(tmp_path):
    data = examples(views=4)
    answers = data.teacher_logits
    with pytest.raises(TrainingStopped):
        train(
            replace(data, teacher_logits=None, live=Live(answers, stop_at=2)),
            checkpoints=tmp_path,
            checkpoint_every_s=3600.0,
        )
    resumed = Live(answers)
    ours = train(replace(data, teacher_logits=None, live=resumed), checkpoints=tmp_path)
    assert resumed.asked == [2, 3]
    assert_equal(ours, train(data))


def test_live_answers_are_told_apart_by_what_they_will_be():
    data = replace(examples(views=4), teacher_logits=None)
    logits = zero_mean_logits().half()[:1].expand(4, -1, -1)
    one, same, other = Live(logits), Live(logits[:, :, :2].clone().expand(4, -1, -1)), Live(logits)
    other.digest = "cd" * 32
    digests = [replace(data, live=live).digests() for live in (one, same, other)]
    assert digests[0] == digests[1] != digests[2]


def test_live_answers_of_other_rows_are_refused():
    data = examples(views=2)
    live = Live(data.teacher_logits[:, :-1])
    with pytest.raises(ValueError, match="of 200 rows, got 199 x 4"):
        batch_source(replace(data, teacher_logits=None, live=live)).start_epoch(0)


def test_answers_are_stored_or_come_live_but_not_both():
    data = examples(views=2)
    with pytest.raises(ValueError, match="not both"):
        replace(data, live=Live(data.teacher_logits))


def test_live_answers_are_not_refreshed_by_the_nets():
    data = examples(views=2)
    live = replace(data, teacher_logits=None, live=Live(data.teacher_logits))
    with pytest.raises(ValueError, match="not both"):
        train(live, refresh=lambda _epoch, _nets: None)


def test_nets_are_not_jittered_away_from_what_a_teacher_answers_live():
    data = examples(views=2)
    live = replace(data, teacher_logits=None, live=Live(data.teacher_logits), parameters=None)
    with pytest.raises(ValueError, match="other views"):
        train_cohort(
            ARCHITECTURE,
            [Net("taught", 0, TAUGHT)],
            live,
            classes=CLASSES,
            preprocessing=PREPROCESSING,
            budget=BUDGET,
            regularisation=Regularisation(jitter_px=1),
        )
