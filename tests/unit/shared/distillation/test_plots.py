import io
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from PIL import Image

from shared.contracts.reports import EpochPoint, TrainingCurve
from shared.contracts.transfer_sets import TargetEntropy
from shared.distillation.evaluation import evaluate
from shared.distillation.plots import (
    COLOURS,
    Drawing,
    Line,
    plot_confusion,
    plot_curves,
    plot_entropy,
    plot_lines,
    plot_reliability,
    short,
)


def evaluation(classes: int = 3):
    labels = torch.arange(20 * classes) % classes
    logits = 3.0 * torch.nn.functional.one_hot(labels, classes)
    logits[:5] = logits[:5].roll(1, dims=1)
    return evaluate(logits, labels, [f"class {number}" for number in range(classes)])


def texts(drawing: Drawing) -> list[str]:
    root = ET.fromstring(drawing.svg)
    return ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]


def pixels(drawing: Drawing) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(drawing.png)).convert("RGB"))


def has_colour(drawing: Drawing, colour: str) -> bool:
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return bool((pixels(drawing) == wanted).all(-1).any())


def lines(*labels: str) -> Drawing:
    drawn = [Line(label, (1.0, 4.0, 20.0), (97.0, 98.5, 98.0), (0.1, 0.2, 0.1)) for label in labels]
    return plot_lines("sweep", "A sweep", drawn, x_label="T", y_label="accuracy (%)", log_x=True)


@pytest.mark.parametrize(
    "draw",
    [lambda: lines("wide"), lambda: plot_confusion(list("abc"), evaluation().confusion)],
    ids=["lines", "confusion"],
)
def test_the_same_figures_give_the_same_bytes(draw):
    assert draw() == draw()


def test_lines_say_what_they_are_and_where_their_points_lie():
    drawing = lines("800 units", "30 units")
    said = texts(drawing)
    for words in ("A sweep", "T", "accuracy (%)", "800 units", "30 units"):
        assert words in said
    # On a logarithmic scale the values themselves are written, not powers of ten.
    assert [text for text in said if text in ("1", "4", "20")] == ["1", "4", "20"]
    assert has_colour(drawing, COLOURS[0])
    assert has_colour(drawing, COLOURS[1])
    assert not has_colour(drawing, COLOURS[2])
    assert pixels(drawing).shape == (480, 720, 3)


def test_curves_have_one_colour_an_arm():
    def curve(arm: str, seed: int) -> TrainingCurve:
        points = tuple(
            EpochPoint(epoch=epoch, loss=seed + 1 / epoch, validation_accuracy=epoch / 10, seconds=1.0)
            for epoch in range(1, 6)
        )
        return TrainingCurve(arm=arm, seed=seed, best_epoch=5, points=points)

    drawing = plot_curves([curve("taught", 0), curve("taught", 1), curve("untaught", 2)])
    assert [text for text in texts(drawing) if text in ("taught", "untaught")] == ["taught", "untaught"]
    assert has_colour(drawing, COLOURS[0])
    assert has_colour(drawing, COLOURS[1])


def test_a_curve_without_validation_is_drawn_by_its_loss():
    points = (EpochPoint(epoch=1, loss=0.0, validation_accuracy=None, seconds=1.0),)
    drawing = plot_curves([TrainingCurve(arm="taught", seed=0, best_epoch=1, points=points)])
    assert "epoch" in texts(drawing)


def test_reliability_names_each_net_with_its_calibration_error():
    one = evaluation()
    drawing = plot_reliability([("teacher", one), ("distilled", one)])
    assert f"distilled (ECE {one.ece:.3f})" in texts(drawing)
    assert "confidence at T = 1" in texts(drawing)


def test_few_classes_have_their_counts_written_into_the_confusions():
    said = texts(plot_confusion(["ant", "bee", "cat"], [[17, 2, 0], [0, 20, 0], [3, 0, 11]]))
    assert {"17", "2", "20", "3", "11"} <= set(said)
    assert {"ant", "bee", "cat"} <= set(said)


def test_two_hundred_classes_are_numbered_and_the_plot_stays_of_one_page():
    names = [f"species {number}" for number in range(200)]
    confusion = np.eye(200, dtype=int)
    confusion[3, 150] = 9
    drawing = plot_confusion(names, confusion.tolist())
    said = texts(drawing)
    assert not any(text.startswith("species") for text in said)
    assert said.count("150") == 2
    height, width, _ = pixels(drawing).shape
    assert max(height, width) <= 1200
    assert len(drawing.svg) < 400_000


def test_right_answers_have_no_colour_of_their_own():
    """Else 990 right answers would make 10 mistakes invisible."""
    darkest = "#7f0000"  # the end of the scale, which the ten mistakes reach and the right answers do not
    assert has_colour(plot_confusion(["ant", "bee"], [[990, 10], [0, 1000]]), darkest)
    map_of_no_mistake = pixels(plot_confusion(["ant", "bee"], [[990, 0], [0, 1000]]))[:, :330]
    assert not (map_of_no_mistake == (0x7F, 0, 0)).all(-1).any()


@pytest.mark.parametrize("name", ["$x^2$", "a\x00b\nc", "<tag> & more", "鳥", "x" * 500])
def test_class_names_can_break_no_plot(name):
    drawing = plot_confusion([name, "bee"], [[1, 1], [0, 2]])
    shown = short(name, 16).replace(r"\$", "$")
    assert shown in texts(drawing)
    assert len(shown) <= 16


def entropy(temperature: float, median: float) -> TargetEntropy:
    return TargetEntropy(
        temperature=temperature, mean_nats=median + 0.1, smallest_nats=0.0, p05_nats=0.1, p25_nats=0.2,
        median_nats=median, p75_nats=median + 0.3, p95_nats=median + 0.5, largest_nats=2.0,
    )  # fmt: skip


@pytest.mark.parametrize("temperatures", [(1.0,), (1.0, 2.0, 4.0, 8.0, 20.0)])
def test_entropy_has_a_box_and_a_mean_a_temperature_below_the_most_there_is(temperatures):
    drawing = plot_entropy([entropy(t, 0.4) for t in temperatures], classes=10)
    said = texts(drawing)
    assert said[: len(temperatures)] == [f"{t:g}" for t in temperatures]
    assert {"T", "entropy of the soft targets (nats)", "ln(10)"} <= set(said)
    assert has_colour(drawing, COLOURS[1])
    assert has_colour(drawing, COLOURS[5])
    assert drawing.name == "entropy"
