"""What a request for a key may say."""

import pytest
from pydantic import ValidationError

from shared.contracts.keys import KeyLimits, KeyRequest, Scope, StoredKey

LIMITS = ({}, {"per_second": 2}, {"per_second": 2, "burst": 9}, {"per_day": 9})


def request(**limits: float) -> KeyRequest:
    wanted = {"name": "phone", "owner": "anna", "scopes": ["predict"], "limits": limits}
    return KeyRequest.model_validate(wanted)


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_a_key_may_have_any_limits_that_bound_something(limits: dict[str, float]):
    assert request(**limits).limits == KeyLimits.model_validate(limits)


@pytest.mark.parametrize("others", [{}, {"per_day": 9, "teacher_rows": 0}], ids=str)
def test_a_burst_without_a_rate_is_refused_as_it_would_bound_nothing(others: dict[str, float]):
    with pytest.raises(ValidationError, match="burst bounds nothing without per_second") as told:
        request(burst=5, **others)
    assert told.value.errors()[0]["loc"] == ("limits",)


def test_a_key_that_was_made_with_such_a_burst_can_be_read_still():
    stored = {
        "id": "a" * 12, "name": "phone", "owner": "anna", "scopes": [Scope.PREDICT], "digest": "0" * 64,
        "created_at": "2026-11-21T00:00:00Z", "limits": {"burst": 5},
    }  # fmt: skip
    assert StoredKey.model_validate(stored).limits.burst == 5
