import pytest

from shared.adapters.web.problems import every_error
from shared.contracts.jobs import JobState
from shared.errors import Corrupt, JobAlreadyFinal, ReportNotReady


def test_every_error_has_a_code_of_its_own():
    codes = [error.code for error in set(every_error())]  # one with two parents is met twice
    assert len(set(codes)) == len(codes)
    assert "job-not-found" in codes


@pytest.mark.parametrize("error", [ReportNotReady, JobAlreadyFinal])
def test_states_are_named_as_users_know_them(error: type[ReportNotReady] | type[JobAlreadyFinal]):
    message = str(error("j-1", JobState.RUNNING))
    assert "running" in message
    assert "JobState" not in message


def test_clients_do_not_learn_where_artefacts_are_kept():
    assert str(Corrupt("/srv/secret/store/students/v1/card.json")).startswith(
        "students/v1/card.json does not"
    )
