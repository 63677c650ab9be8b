"""Sampling, targets and the dustbin's correction; arXiv:1503.02531, sections 5.2, 5.4 and 6.1."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from shared.distillation.losses import hard_label_loss, soft_target_loss
from shared.distillation.specialists import (
    HalfAndHalf,
    SpecialClasses,
    first_weights,
    special_classes,
)
from shared.errors import InvalidSpecialistPlan
from shared.models.combine import Covered, combined_logits

LABELS = torch.tensor([0, 1, 2, 3, 3, 2, 4, 4, 4, 0])
SPECIAL = SpecialClasses(classes=(3, 1), total=5, share=0.3)


def softmax(logits: Tensor) -> Tensor:
    return torch.softmax(logits.double(), dim=-1)


# --- a world in which the Bayes answer is known ------------------------------------------------------------

COUNTS = torch.tensor(
    [
        [30, 10, 40, 20, 100],
        [5, 25, 100, 60, 10],
        [15, 15, 300, 10, 60],
        [10, 30, 20, 100, 240],
    ]
)
"""Images of four looks (rows) and five classes (columns): one look occurs with several classes."""
SET = (0, 1)


def world() -> tuple[Tensor, Tensor]:
    """Return the look and the class of every image."""
    looks = torch.arange(4).repeat_interleave(COUNTS.sum(1))
    labels = torch.cat([torch.arange(5).repeat_interleave(row) for row in COUNTS])
    return looks, labels


def bayes() -> Tensor:
    """Return p(class of the set, or not | look) in nature."""
    shares = COUNTS.double() / COUNTS.sum(1, keepdim=True)
    return torch.cat([shares[:, list(SET)], 1 - shares[:, list(SET)].sum(1, keepdim=True)], dim=1)


def trained_on_half_and_half(special: SpecialClasses) -> Tensor:
    """Return the logits, one row a look, that minimise the cross-entropy on what `HalfAndHalf` chooses."""
    looks, labels = world()
    sampler = HalfAndHalf(labels, SET)
    rows = torch.cat([sampler.rows_of_epoch(0, epoch) for epoch in range(300)])
    met = torch.zeros(4, special.answers)
    met.index_put_((looks[rows], special.labels(labels)[rows]), torch.tensor(1.0), accumulate=True)
    # A table of logits can say everything; its best cross-entropy is where softmax is the share met.
    logits = met.double().log()
    logits.requires_grad_()
    targets = special.labels(labels)[rows]
    (slope,) = torch.autograd.grad(hard_label_loss(logits[looks[rows]], targets), logits)
    assert slope.abs().max() < 1e-6
    return logits.detach()


def test_the_corrected_dustbin_gives_the_bayes_answer_and_the_papers_literal_reading_does_not():
    _, labels = world()
    special = special_classes(labels, SET, total=5)
    assert special.share == pytest.approx(COUNTS[:, list(SET)].sum() / COUNTS.sum())
    logits = trained_on_half_and_half(special)

    def worst(dustbin: float) -> float:
        moved = logits.clone()
        moved[:, -1] += dustbin
        return float((softmax(moved) - bayes()).abs().max())

    assert torch.equal(special.corrected(logits[0])[:-1], logits[0][:-1])
    assert special.corrected(torch.zeros(3))[-1] == pytest.approx(
        math.log((1 - special.share) / special.share)
    )
    exact = float(special.corrected(logits[0])[-1] - logits[0][-1])
    assert worst(exact) < 0.01  # what is left is chance: which others were drawn
    assert worst(math.log(0.5 / special.share)) > 0.03
    assert worst(0.0) > 0.2


def test_soft_targets_of_a_perfect_generalist_lead_to_the_bayes_answer_once_corrected():
    _, labels = world()
    special = special_classes(labels, SET, total=5)
    generalist = (COUNTS / COUNTS.sum(1, keepdim=True)).log()
    taught = special.soft_targets(generalist)
    # Where a specialist agrees with its soft targets the loss is 0 at every T.
    for temperature in (1.0, 4.0):
        assert soft_target_loss(taught, taught, temperature=temperature) == pytest.approx(0, abs=1e-6)
    corrected = torch.stack([special.corrected(row) for row in taught])
    torch.testing.assert_close(softmax(corrected), bayes(), atol=1e-6, rtol=0)
    # Hard labels of the sample and the shifted soft targets agree about what is to be learned.
    torch.testing.assert_close(softmax(taught), softmax(trained_on_half_and_half(special)), atol=0.02, rtol=0)


def taught_over_all_classes(generalist: Tensor) -> Tensor:
    """Return p(class | look) of a specialist that has learned all it is taught (section 6.1), corrected.

    Exact: every image is weighed by how often half and half shows it, and the best cross-entropy of a table
    of logits is where softmax is the mean target.
    """
    looks, labels = world()
    special = special_classes(labels, SET, total=5, dustbin=False)
    targets = softmax(special.full_targets(generalist[looks], labels))
    is_special = torch.isin(labels, torch.tensor(SET))
    weights = torch.where(is_special, 1 / is_special.sum().double(), 1 / (~is_special).sum().double())
    met = torch.zeros(4, 5, dtype=torch.float64).index_add_(0, looks, weights[:, None] * targets)
    learned = (met / met.sum(1, keepdim=True)).log()
    return softmax(torch.stack([special.corrected(row) for row in learned]))


def test_a_specialist_over_all_classes_that_learns_its_targets_gives_the_bayes_answer():
    """A perfect generalist: p(class | look) of all five classes comes back, to rounding."""
    shares = COUNTS.double() / COUNTS.sum(1, keepdim=True)
    torch.testing.assert_close(taught_over_all_classes(shares.log()), shares, atol=1e-12, rtol=0)


def test_of_special_classes_the_generalist_is_not_asked_and_of_the_others_it_is_believed():
    """It knows nothing of the special classes, and is wrong about the others in a way that is known."""
    shares = COUNTS.double() / COUNTS.sum(1, keepdim=True)
    said = shares * torch.tensor([0.01, 9.0, 1.0, 2.0, 3.0])
    expected = shares.clone()
    among = said[:, 2:] / said[:, 2:].sum(1, keepdim=True)
    expected[:, 2:] = shares[:, 2:].sum(1, keepdim=True) * among
    torch.testing.assert_close(taught_over_all_classes(said.log()), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("sure", [1.0, 5.0])
def test_one_specialist_over_all_classes_and_one_with_a_dustbin_lead_to_the_same_answer(sure: float):
    """What stands for the rest is the generalist's own opinion: it must not count as another model's."""
    generalist = sure * torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    whole = taught_over_all_classes(generalist)
    lumped = torch.cat([whole[:, :2], whole[:, 2:].sum(1, keepdim=True)], dim=1)
    torch.testing.assert_close(lumped, bayes(), atol=1e-12, rtol=0)
    answers = [
        combined_logits(
            generalist.numpy(),
            [Covered(SET, dustbin=dustbin)],
            lambda _, rows, p=p: p.log().numpy()[rows],
            top_n=5,
        )
        for dustbin, p in ((False, whole), (True, lumped))
    ]
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-3)


def test_the_correction_is_nothing_where_half_of_nature_is_special():
    assert SpecialClasses((0,), 2, share=0.5).correction == 0
    assert SpecialClasses((0,), 9, share=0.1).correction == pytest.approx(2.197, abs=1e-3)
    assert SpecialClasses((0,), 2, share=0.9).correction == pytest.approx(-2.197, abs=1e-3)


# --- targets -----------------------------------------------------------------------------------------------


def test_classes_outside_the_set_become_the_dustbin_and_unknown_ones_stay_unknown():
    assert SPECIAL.labels(torch.tensor([0, 1, 2, 3, 4, -1])).tolist() == [2, 1, 2, 0, 2, -1]
    assert SPECIAL.answers == 3
    assert SPECIAL.rest == (0, 2, 4)


def test_without_a_dustbin_every_class_keeps_its_number():
    whole = SpecialClasses((3, 1), 5, share=0.3, dustbin=False)
    assert whole.answers == 5
    assert torch.equal(whole.labels(LABELS), LABELS)
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    taught = whole.soft_targets(logits)
    moved = taught - (logits - logits.mean(-1, keepdim=True))
    # Others are shifted against special ones by the correction, and not among themselves.
    torch.testing.assert_close(moved[:, [0]] - moved[:, [1]], torch.full((4, 1), -whole.correction))
    torch.testing.assert_close(moved[:, 0], moved[:, 4])
    torch.testing.assert_close(whole.corrected(taught[0])[2] - taught[0][2], torch.tensor(whole.correction))


def test_a_specialist_over_all_classes_is_taught_hard_targets_of_special_images_and_soft_ones_of_others():
    """arXiv:1503.02531, section 6.1; of others, which of the other classes they are."""
    whole = SpecialClasses((3, 1), 5, share=0.3, dustbin=False)
    logits = torch.randn(10, 5, generator=torch.Generator().manual_seed(3))
    taught = softmax(whole.full_targets(logits, LABELS))
    special = torch.isin(LABELS, torch.tensor([3, 1]))
    one_hot = torch.nn.functional.one_hot(LABELS, 5).double()
    torch.testing.assert_close(taught[special], one_hot[special], atol=1e-6, rtol=0)
    others = softmax(logits)[:, [0, 2, 4]]
    expected = torch.zeros(10, 5, dtype=torch.float64)
    expected[:, [0, 2, 4]] = others / others.sum(1, keepdim=True)
    torch.testing.assert_close(taught[~special], expected[~special], atol=1e-6, rtol=0)
    # To teach certain targets softly at T = 1 is to teach them as hard labels.
    student = torch.randn(10, 5, generator=torch.Generator().manual_seed(4))
    soft = soft_target_loss(student[special], whole.full_targets(logits, LABELS)[special], temperature=1.0)
    torch.testing.assert_close(soft, hard_label_loss(student[special], LABELS[special]))


def test_the_dustbin_is_taught_the_sum_of_what_it_lumps_together():
    logits = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    even = SpecialClasses((3, 1), 5, share=0.5)
    p = softmax(logits)
    expected = torch.stack([p[:, 3], p[:, 1], p[:, [0, 2, 4]].sum(1)], dim=1)
    torch.testing.assert_close(softmax(even.soft_targets(logits)), expected, atol=1e-6, rtol=0)


def test_a_specialist_starts_where_the_generalist_stands():
    generator = torch.Generator().manual_seed(2)
    tensors = {
        "body": torch.randn(4, 3, generator=generator),
        "head.weight": torch.randn(5, 4, generator=generator),
        "head.bias": torch.randn(5, generator=generator),
    }
    tensors["head.weight"][[2, 4]] = tensors["head.weight"][0].clone()  # others that are alike:
    tensors["head.bias"][[2, 4]] = tensors["head.bias"][0].clone()  # then the mean of their rows is exact
    first = first_weights(tensors, ("head.weight", "head.bias"), SPECIAL)
    assert torch.equal(first["body"], tensors["body"])
    assert first["body"].data_ptr() != tensors["body"].data_ptr()
    hidden = torch.randn(7, 4, generator=generator)
    generalist = hidden @ tensors["head.weight"].T + tensors["head.bias"]
    specialist = hidden @ first["head.weight"].T + first["head.bias"]
    torch.testing.assert_close(
        softmax(specialist), softmax(SPECIAL.soft_targets(generalist)), atol=1e-6, rtol=0
    )


def test_targets_over_all_classes_survive_16_bits():
    """So they are kept; the generalist's own logits have come through 16 bits as well."""
    whole = SpecialClasses(tuple(range(90)), 100, share=0.9, dustbin=False)
    logits = 6 * torch.randn(50, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    taught = whole.full_targets(logits, torch.full((50,), 95))
    torch.testing.assert_close(softmax(taught.half()), softmax(taught), atol=2e-4, rtol=0)


# --- sampling ----------------------------------------------------------------------------------------------


def test_half_of_every_even_batch_is_special():
    _, labels = world()
    sampler = HalfAndHalf(labels, SET)
    rows = sampler.rows_of_epoch(0, 0)
    special = torch.isin(labels[rows], torch.tensor(SET))
    for start in range(0, len(rows), 32):
        batch = special[start : start + 32]
        assert batch.sum() * 2 == len(batch)


def test_an_epoch_has_every_special_image_once_and_no_other_twice():
    sampler = HalfAndHalf(LABELS, (3, 1))
    rows = sampler.rows_of_epoch(0, 0).tolist()
    assert sorted(rows[::2]) == [1, 3, 4]
    assert len(set(rows[1::2])) == 3
    assert not {1, 3, 4} & set(rows[1::2])


def test_others_come_again_only_where_there_are_too_few():
    labels = torch.tensor([0, 0, 0, 0, 0, 1, 1])
    rows = HalfAndHalf(labels, (0,)).rows_of_epoch(0, 0).tolist()
    assert sorted(rows[::2]) == [0, 1, 2, 3, 4]
    assert sorted(rows[1::2].count(other) for other in (5, 6)) == [2, 3]


def test_seed_and_epoch_alone_choose_the_rows():
    first, again = HalfAndHalf(LABELS, (3, 1)), HalfAndHalf(LABELS, (3, 1))
    first.rows_of_epoch(5, 0)
    assert torch.equal(first.rows_of_epoch(5, 1), again.rows_of_epoch(5, 1))
    drawn = {tuple(again.rows_of_epoch(seed, epoch).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(drawn) > 6


def test_images_without_a_label_are_not_drawn():
    labels = torch.tensor([0, -1, 1, -1, 1])
    for epoch in range(5):
        assert set(HalfAndHalf(labels, (0,)).rows_of_epoch(0, epoch).tolist()) <= {0, 2, 4}


@pytest.mark.parametrize("classes", [(7,), (0, 1, 2, 3, 4)])
def test_a_set_without_images_or_without_others_is_refused(classes: tuple[int, ...]):
    with pytest.raises(InvalidSpecialistPlan, match="10 labelled training images"):
        special_classes(LABELS, classes, total=8)
