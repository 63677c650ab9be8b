"""The list of metrics in docs/serving.md, the dashboard, the alerts and what `/metrics` shows are one."""

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import REGISTRY, Metric

import services.gateway.app  # noqa: F401 - all metrics of the gateway are made when its modules are loaded

ROOT = Path(__file__).resolve().parents[5]
DASHBOARD = json.loads((ROOT / "docs/grafana/imago-gateway.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ALERTS = yaml.safe_load((ROOT / "docs/grafana/imago-alerts.yaml").read_text())["groups"][0]["rules"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]

OTHERS = ("imago_teacher_", "imago_worker_")
"""Of services that other tests may have loaded into this process."""


def exposed() -> dict[str, Metric]:
    """Return the gateway's metrics by the names under which they are shown."""
    return {
        family.name + ("_total" if family.type == "counter" else ""): family
        for family in REGISTRY.collect()
        if family.name.startswith("imago_") and not family.name.startswith(OTHERS)
    }


def labels_of(name: str) -> set[str]:
    collector = REGISTRY._names_to_collectors[name]
    return set(collector._labelnames)  # type: ignore[attr-defined]


def documented() -> dict[str, tuple[set[str], str]]:
    """Return labels and type of the metrics in the table of docs/serving.md."""
    section = (ROOT / "docs/serving.md").read_text().split("\n## Metrics\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(imago_\w+)` \|([^|]*)\| (\w+)[^|]*\|", section, re.MULTILINE)
    return {name: (set(re.findall(r"`(\w+)`", labels)), kind) for name, labels, kind in rows}


def test_each_metric_is_documented_with_its_labels_and_type_and_each_documented_one_is_shown():
    shown = {name: (labels_of(name), family.type) for name, family in exposed().items()}
    assert documented() == shown


def test_the_dashboard_can_be_imported_into_any_grafana():
    assert DASHBOARD["schemaVersion"] >= 39
    assert "id" not in DASHBOARD  # it would replace the dashboard that has this number
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    sources = {json.dumps(panel["datasource"]) for panel in PANELS}
    sources |= {json.dumps(target["datasource"]) for panel in PANELS for target in panel["targets"]}
    assert sources == {json.dumps({"type": "prometheus", "uid": "${datasource}"})}
    assert DASHBOARD["templating"]["list"][0]["name"] == "datasource"


def test_no_two_panels_of_the_dashboard_lie_on_each_other():
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def base(series: str) -> str:
    """Return the metric of which this is a series."""
    return series if series in exposed() else re.sub(r"_(bucket|sum|count)$", "", series)


@pytest.mark.parametrize("query", QUERIES + [alert["expr"] for alert in ALERTS])
def test_a_query_of_the_dashboard_or_an_alert_asks_for_what_there_is(query: str):
    assert query.count("(") == query.count(")")
    names = {base(name) for name in re.findall(r"\bimago_\w+", query)}
    assert names
    assert names <= set(exposed())
    known = {"job", "le"}.union(*(labels_of(name) for name in names))
    selected = set(re.findall(r"(\w+)!?=~?\"", query))
    grouped = {name for names in re.findall(r"\b(?:by|on) \(([^)]*)\)", query) for name in names.split(", ")}
    assert selected | grouped <= known


def test_the_dashboard_shows_every_metric():
    text = json.dumps(DASHBOARD)
    assert {base(name) for name in re.findall(r"\bimago_\w+", text)} == set(exposed())


def test_a_bucket_that_a_query_names_is_one_of_the_histogram():
    for series, bound in re.findall(r"(imago_\w+)_bucket\{[^}]*\ble=\"([^\"]+)\"", "\n".join(QUERIES)):
        histogram = REGISTRY._names_to_collectors[series]
        assert float(bound) in histogram._kwargs["buckets"]  # type: ignore[attr-defined]
