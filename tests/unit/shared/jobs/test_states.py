from shared.contracts.jobs import FINAL_STATES, JobState
from shared.jobs.states import ARROWS


def test_every_state_has_its_arrows_and_final_states_have_none() -> None:
    assert set(ARROWS) == set(JobState)
    assert {state for state, arrows in ARROWS.items() if not arrows} == FINAL_STATES


def test_every_state_can_be_reached_from_the_queue_and_leads_to_an_end() -> None:
    def reachable(start: JobState) -> set[JobState]:
        seen, front = {start}, {start}
        while front:
            front = set().union(*(ARROWS[state] for state in front)) - seen
            seen |= front
        return seen

    assert reachable(JobState.QUEUED) == set(JobState)
    assert all(reachable(state) & FINAL_STATES for state in JobState)
