"""Charts: PNG files, the same bytes for the same result."""

import io

import pytest
from PIL import Image

from experiments import charts
from experiments.result import Chart
from tests.unit.experiments.examples import CHART, result


@pytest.mark.parametrize("chart", [None, CHART], ids=["rows", "lines"])
def test_a_result_is_drawn_as_png_and_always_the_same(chart: Chart | None):
    drawn = charts.png(result(chart))
    with Image.open(io.BytesIO(drawn)) as image:
        image.load()
        assert image.format == "PNG"
        assert image.width > 500
    assert charts.png(result(chart)) == drawn


def test_another_figure_gives_another_picture():
    one = result()
    figure = one.finding.figures[0].model_copy(update={"values": (170.0,), "seeds": (0,)})
    finding = one.finding.model_copy(update={"figures": (figure,)})
    assert charts.png(one.model_copy(update={"finding": finding})) != charts.png(one)
