from collections.abc import Callable

import optuna
import pytest

from shared.contracts.specs import FloatRange, SweepConstraint, SweepSpec
from shared.distillation.sweep import (
    Candidate,
    choose,
    next_round,
    open_study,
    satisfies,
    tell,
    tell_known,
    trials_wanted,
)

optuna.logging.set_verbosity(optuna.logging.WARNING)

GRID = SweepSpec(
    name="s",
    teacher="t",
    dataset="d",
    temperatures=FloatRange(values=(1.0, 4.0, 20.0)),
    hard_weights=FloatRange(values=(0.0, 0.5)),
    seeds=(0, 1),
)
TPE = GRID.model_copy(
    update={
        "sampler": "tpe",
        "trials": 24,
        "temperatures": FloatRange(low=0.5, high=32.0, log=True),
        "hard_weights": FloatRange(values=(0.0,)),
    }
)


def storage() -> optuna.storages.BaseStorage:
    return optuna.storages.InMemoryStorage()


def run(order: SweepSpec, value: Callable[[float], float], *, most: int = 100, kept=None) -> optuna.Study:
    study = open_study("n", kept or storage())
    while trials := next_round(study, order, most):
        for trial in trials:
            tell(study, trial.number, [value(trial.objective.temperature)])
    return study


def temperatures(study: optuna.Study) -> list[float]:
    return [trial.params["temperature"] for trial in study.trials]


def test_a_grid_asks_for_every_point_once_in_its_order_and_no_more_than_so_many_at_once():
    study = open_study("n", storage())
    rounds = []
    while trials := next_round(study, GRID, 4):
        rounds.append(
            [(t.objective.temperature, t.objective.soft_weight, t.objective.hard_weight) for t in trials]
        )
        for trial in trials:
            tell(study, trial.number, [0.5])
    points = [(t, 1.0, h) for t in (1.0, 4.0, 20.0) for h in (0.0, 0.5)]
    assert rounds == [points[:4], points[4:]]
    assert trials_wanted(GRID) == 6


def test_a_trial_is_worth_its_mean_over_seeds_and_telling_it_twice_changes_nothing():
    study = open_study("n", storage())
    trial = next_round(study, GRID, 1)[0]
    tell(study, trial.number, [0.25, 0.75])
    tell(study, trial.number, [1.0])
    assert study.trials[trial.number].value == 0.5


def test_trials_of_a_process_that_died_are_taken_up_again_and_told_ones_are_not():
    kept = storage()
    first = next_round(open_study("n", kept), GRID, 4)
    tell(open_study("n", kept), first[0].number, [0.5])
    study = open_study("n", kept)
    assert next_round(study, GRID, 4) == first[1:]
    for trial in first[1:]:
        tell(study, trial.number, [0.5])
    assert [trial.number for trial in next_round(study, GRID, 4)] == [4, 5]


def test_what_a_process_found_out_before_it_died_is_told_by_the_next():
    kept = storage()
    trials = next_round(open_study("n", kept), GRID, 4)
    study = open_study("n", kept)
    tell_known(study, {0: [0.25], 2: [0.75], 5: [1.0]})
    assert next_round(study, GRID, 4) == (trials[1], trials[3])
    assert [trial.value for trial in study.trials] == [0.25, None, 0.75, None]


@pytest.mark.parametrize("order", [GRID, TPE])
def test_a_trial_whose_process_died_while_it_was_asked_for_costs_no_point(order: SweepSpec):
    kept = storage()
    kept.create_new_trial(open_study("n", kept)._study_id)
    study = run(order, lambda _: 0.5, kept=kept)
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert len(complete) == trials_wanted(order)
    if order is GRID:
        assert len({tuple(trial.params.items()) for trial in complete}) == 6


def test_a_trial_that_diverged_has_failed_and_is_not_asked_for_again():
    study = open_study("n", storage())
    asked = []
    for _ in range(3):  # 4, 2 and none
        trials = next_round(study, GRID, 4)
        asked += [trial.objective for trial in trials]
        for trial in trials:
            tell(study, trial.number, [] if trial.objective.temperature == 20.0 else [0.5])
    assert len(asked) == len(set(map(str, asked))) == 6
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4 + ["FAIL"] * 2


@pytest.mark.parametrize("order", [GRID, TPE])
def test_parts_that_run_at_the_same_time_share_the_trials_and_train_none_twice(order: SweepSpec):
    kept = storage()
    trained: list[dict[str, int]] = [{}, {}, {}]
    busy = True
    while busy:
        busy = False
        rounds = [next_round(open_study("n", kept), order, 2, part=part, parts=3) for part in range(3)]
        for part, trials in enumerate(rounds):
            # Whoever asks again, because its process died, gets its own trials and nobody else's.
            assert next_round(open_study("n", kept), order, 2, part=part, parts=3) == trials
            for trial in trials:
                busy = True
                trained[part][str(trial.objective)] = trial.number
                tell(open_study("n", kept), trial.number, [0.5])
    assert [len(one) for one in trained] == [trials_wanted(order, part=part, parts=3) for part in range(3)]
    assert sum(map(len, trained)) == trials_wanted(order)
    assert len({point for one in trained for point in one}) == trials_wanted(order)
    assert sorted(number for one in trained for number in one.values()) == list(range(trials_wanted(order)))


def test_tpe_learns_in_one_part_from_what_another_was_told():
    """The second part begins when the first has ended: it draws nothing at random any more."""
    study = open_study("n", storage())
    for part in range(2):
        while trials := next_round(study, TPE, 100, part=part, parts=2):
            for trial in trials:
                tell(study, trial.number, [-abs(trial.objective.temperature - 4.0)])
    drawn, steered = temperatures(study)[:10], temperatures(study)[12:]
    assert len(steered) == 12
    off = [sum(abs(t - 4.0) for t in part) / len(part) for part in (drawn, steered)]
    assert off[1] < off[0] / 2


def test_tpe_looks_where_it_pays_and_gets_as_many_trials_as_asked():
    study = run(TPE, lambda t: -abs(t - 4.0))
    assert len(study.trials) == 24
    drawn, steered = temperatures(study)[:10], temperatures(study)[10:]
    assert abs(study.best_params["temperature"] - 4.0) < 1.0
    off = [sum(abs(t - 4.0) for t in part) / len(part) for part in (drawn, steered)]
    assert off[1] < off[0] / 2
    assert all(0.5 <= t <= 32.0 for t in temperatures(study))


def test_a_repeated_sweep_tries_the_same_points_even_if_it_was_interrupted():
    whole = temperatures(run(TPE, lambda t: -abs(t - 4.0)))
    kept = storage()
    study = open_study("n", kept)
    for trial in next_round(study, TPE, 100):
        tell(study, trial.number, [-abs(trial.objective.temperature - 4.0)])
    next_round(study, TPE, 100)  # asked for, then its process died
    assert temperatures(run(TPE, lambda t: -abs(t - 4.0), kept=kept)) == whole
    other = TPE.model_copy(update={"seeds": (7, 8)})
    assert temperatures(run(other, lambda t: -abs(t - 4.0))) != whole


SMALL, MIDDLE, LARGE = Candidate(30, 0.95, 1.0), Candidate(300, 0.97, 2.0), Candidate(1200, 0.98, 5.0)


@pytest.mark.parametrize(
    ("constraint", "chosen"),
    [
        (SweepConstraint(), LARGE),
        (SweepConstraint(within_points=5), SMALL),
        (SweepConstraint(within_points=2), MIDDLE),  # 2 points below the teacher's 0.99, exactly
        (SweepConstraint(within_points=1.5), LARGE),
        (SweepConstraint(within_points=0.5), None),
        (SweepConstraint(p50_ms=2.0), SMALL),
        (SweepConstraint(within_points=1.5, p50_ms=3.0), None),
    ],
)
def test_the_smallest_network_that_satisfies_the_constraint_is_chosen(constraint, chosen):
    assert choose([LARGE, SMALL, MIDDLE], constraint, 0.99) is chosen


def test_a_student_may_be_better_than_its_teacher():
    assert satisfies(LARGE, SweepConstraint(within_points=0), 0.97)


def test_of_equally_good_networks_the_smaller_and_of_equally_small_ones_the_better_is_chosen():
    same = Candidate(100, 0.98, 1.0)
    assert choose([LARGE, same], SweepConstraint(), 0.99) is same
    worse, better = Candidate(30, 0.94, 1.0), Candidate(30, 0.96, 1.0)
    assert choose([worse, better], SweepConstraint(within_points=10), 0.99) is better
