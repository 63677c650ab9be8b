import pytest
from pydantic import ValidationError

from services.worker.protocol import ChildMessage, ChildOrder, to_line
from shared.contracts.jobs import Failure, JobResult
from tests.support.jobs import distillation_spec, teacher_spec


@pytest.mark.parametrize("spec", [teacher_spec(), distillation_spec()])
def test_an_order_is_one_line_and_reads_back_as_it_was(spec: object) -> None:
    order = ChildOrder(job_id="j-1", epoch=2, attempts=1, spec=spec)
    line = to_line(order)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert ChildOrder.model_validate_json(line) == order


def test_words_with_line_ends_stay_one_line() -> None:
    message = ChildMessage(note="two\nlines\r\u2028and more")
    assert to_line(message).count(b"\n") == 1
    assert ChildMessage.model_validate_json(to_line(message)) == message


@pytest.mark.parametrize(
    "fields", [{}, {"note": "a", "result": JobResult()}, {"child": teacher_spec(), "note": "a"}]
)
def test_a_message_says_exactly_one_thing(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="exactly one"):
        ChildMessage(**fields)


def test_an_empty_result_is_still_a_result() -> None:
    message = ChildMessage.model_validate_json(to_line(ChildMessage(result=JobResult())))
    assert message.result == JobResult()
    assert ChildMessage(failure=Failure(code="c", detail="d")).failure is not None
