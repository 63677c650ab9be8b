from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from shared.adapters.web.boundary import REQUESTS, Tally
from shared.adapters.web.metrics import BatchHistogram, exposition
from shared.adapters.web.metrics import samples as shown

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


def test_processes_are_added_up_also_one_that_died_before_it_had_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    key = mmap_key("seen", "seen_total", ["at"], ["here"], "What was seen")
    for pid, value in ((11, 3.0), (12, 4.0)):
        file = MmapedDict(str(tmp_path / f"counter_{pid}.db"))
        file.write_value(key, value, 0.0)
        file.close()
    (tmp_path / "counter_13.db").touch()
    assert [(one.name, one.labels, one.value) for one in shown()] == [("seen_total", {"at": "here"}, 7.0)]
    assert b'seen_total{at="here"} 7.0' in exposition().body
