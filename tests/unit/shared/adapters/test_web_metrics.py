import pytest
from prometheus_client import CollectorRegistry, Histogram

from shared.adapters.web.boundary import REQUESTS, Tally
from shared.adapters.web.metrics import BatchHistogram

VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 7.0, 100.0)


def samples(histogram: Histogram) -> list[tuple[str, dict[str, str], float]]:
    (family,) = histogram.collect()
    return [(one.name, one.labels, one.value) for one in family.samples if not one.name.endswith("_created")]


@pytest.mark.parametrize("labels", [(), ("here",)])
def test_many_values_at_once_count_as_one_by_one(labels: tuple[str, ...]):
    facts = {"labelnames": ["at"] if labels else [], "buckets": (1, 2, 5), "registry": CollectorRegistry()}
    together = BatchHistogram("one", "together", **facts)
    singly = BatchHistogram("two", "singly", **facts)
    (together.labels(*labels) if labels else together).observe_many(VALUES)
    for value in VALUES:
        (singly.labels(*labels) if labels else singly).observe(value)
    found, expected = samples(together), samples(singly)
    assert [(name.removeprefix("one"), *rest) for name, *rest in found] == [
        (name.removeprefix("two"), *rest) for name, *rest in expected
    ]


def test_a_tally_counts_each_answer_once():
    tally = Tally("/tallied", "POST")
    assert [tally.add(status, 0.001) for status in (200, 200, 422)] == [True, False, False]
    tally.count()
    assert tally.add(200, 0.001)
    tally.count()
    assert REQUESTS.labels("/tallied", "POST", 200)._value.get() == 3
    assert REQUESTS.labels("/tallied", "POST", 422)._value.get() == 1
