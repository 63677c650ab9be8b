import threading

import pytest
import torch

from shared.distillation.cohort import train_cohort
from shared.distillation.side_by_side import side_by_side
from tests.support.cohorts import (
    ARCHITECTURE,
    BUDGET,
    CLASSES,
    PREPROCESSING,
    REGULARISED,
    examples,
    teachers,
)

CPU = torch.device("cpu")


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_things_share_the_threads_and_come_back_in_order(four_threads):
    with side_by_side(2, CPU) as each:
        seen = each(lambda thing: (thing, torch.get_num_threads(), threading.current_thread().name))
    assert [thing for thing, _, _ in seen] == [0, 1]
    assert {threads for _, threads, _ in seen} == {2}
    assert torch.get_num_threads() == 4
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [4]


def test_more_things_than_threads_take_turns(four_threads):
    with side_by_side(9, CPU) as each:
        assert each(lambda thing: torch.get_num_threads()) == [1] * 9


@pytest.mark.parametrize(("things", "device"), [(1, CPU), (3, torch.device("cuda"))])
def test_one_thing_or_a_gpu_stays_on_the_calling_thread(things, device, four_threads):
    with side_by_side(things, device) as each:
        assert set(each(lambda _: threading.current_thread())) == {threading.current_thread()}


def test_what_one_raises_reaches_the_caller_after_all_have_ended(four_threads):
    ended = []

    def work(thing):
        if thing == 0:
            raise ZeroDivisionError
        ended.append(thing)

    with side_by_side(4, CPU) as each, pytest.raises(ZeroDivisionError):
        each(work)
    assert sorted(ended) == [1, 2, 3]


def test_nets_trained_side_by_side_are_those_trained_in_turn(four_threads):
    def train(asked):
        return train_cohort(
            ARCHITECTURE,
            asked,
            examples(views=None),
            classes=CLASSES,
            preprocessing=PREPROCESSING,
            budget=BUDGET,
            regularisation=REGULARISED,
        )

    once, again = train(teachers(0, 1, 2, 3)), train(teachers(0, 1, 2, 3))
    torch.set_num_threads(1)
    in_turn = train(teachers(0, 1, 2, 3))
    for one, other, alone in zip(once, again, in_turn, strict=True):
        for name, tensor in one.tensors.items():
            assert torch.equal(tensor, other.tensors[name])
            assert torch.equal(tensor, alone.tensors[name])
