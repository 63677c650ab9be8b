"""What can be found wrong with a teacher before anything is asked of it at length, each as a finding.

Functions on names and arrays alone; who asks, and in which order, stands in the worker. What the answers are
worth as soft targets is in `target_checks`.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int64

from shared.contracts.evaluation import Evaluation
from shared.contracts.findings import Finding
from shared.contracts.images import ImageInput, Preprocessing
from shared.distillation.evaluation import evaluate
from shared.distillation.findings import failed, ok, warning
from shared.distillation.intervals import wilson_interval

Logits = Float[np.ndarray, "rows classes"]
Labels = Int64[np.ndarray, " rows"]

SAMPLE_IMAGES: Final = 1000
"""Labelled images asked about: the 95 % interval of an accuracy is then at most 3.1 points to either side."""

PROBE_IMAGES: Final = 16
"""Asked about twice and one by one: enough for a batch that differs from a single image."""

SHOWN: Final = 12
"""Rows, classes or tensors that a finding names one by one."""

REPEAT_TOLERANCES: Final[Mapping[str, float]] = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest difference between two answers about one image, over the range of its logits. Other batch sizes add
up in another order, which moves deep nets by some units in the last place (6e-8, 5e-4, 4e-3), or thousands of
the smallest. Dropout and statistics of the batch change logits by tenths of their range."""

SUM_TOLERANCE: Final = 1e-2
"""How far the sum of a row may be from 1 where it holds probabilities: 1,000 in bfloat16 miss it so."""

ALIKE: Final = 1e-4
"""Deviation of logits over images, over their deviation within a row, below which no image is seen: what is
left then is rounding."""

CONSTANT_SHARE: Final = 0.95
"""Of the images that one class is named for, above which a teacher is said to name little else."""

FAR_FROM_0: Final = 3.0
"""Deviations of its own that the mean of what a net sees may lie from 0. Nets are trained with about 0."""

FAR_FROM_1: Final = 10.0
"""Factor by which the deviation of what a net sees may differ from 1."""

SAME_SHAPE: Final = 0.01
"""Relative difference of the ratios of sides up to which images are not called stretched."""


# --- before anything is asked ------------------------------------------------------------------------------


def check_classes(teacher: Sequence[str], dataset: Sequence[str]) -> Finding:
    """Compare the teacher's class names and their order with the dataset's."""
    check = "class names"
    if tuple(teacher) == tuple(dataset):
        return ok(check, f"{len(teacher)} classes, named as the dataset's")
    if len(teacher) != len(dataset):
        return failed(
            check,
            f"the teacher has {len(teacher)} classes, the dataset {len(dataset)}"
            f"{_names('only the teacher has', set(teacher) - set(dataset))}"
            f"{_names('only the dataset has', set(dataset) - set(teacher))}",
            "Take a dataset and a teacher of the same classes.",
        )
    if set(teacher) == set(dataset):
        places = [list(teacher).index(name) for name in dataset]
        return failed(
            check,
            "the same classes in another order: in the dataset's order they are the teacher's outputs "
            f"{_some(places)}, counted from 0",
            "Where the names were listed wrongly, give `classes` in the order of the outputs; else bring "
            "the outputs into the dataset's order.",
        )
    unknown, missing = set(teacher) - set(dataset), set(dataset) - set(teacher)
    alike = {name.strip().casefold() for name in unknown} == {name.strip().casefold() for name in missing}
    return failed(
        check,
        f"{len(unknown)} of {len(teacher)} names differ"
        f"{', by case or blanks alone' if alike else ''}{_names('only the teacher has', unknown)}"
        f"{_names('only the dataset has', missing)}",
        "Give `classes` as the dataset calls them, in the order of the teacher's outputs.",
    )


def check_input(preprocessing: Preprocessing, images: ImageInput) -> Finding:
    """Compare the size of the dataset's images with what the teacher takes and what its net sees."""
    check, seen = "input size", preprocessing.seen
    if preprocessing.input != images:
        return failed(
            check,
            f"the teacher takes images of {_size(preprocessing.input)}, the dataset's are {_size(images)}",
            "Add the teacher with this dataset: its images are then resized as part of the teacher.",
        )
    if seen == images:
        return ok(check, _size(images))
    detail = f"images of {_size(images)} are brought to {_size(seen)} ({preprocessing.resample})"
    if seen.height < images.height or seen.width < images.width:
        advice = (
            "Detail is lost that the student will see; take a teacher of larger images where there is one."
        )
        return warning(check, f"{detail}, which is smaller", advice)
    ratio = (seen.width / seen.height) / (images.width / images.height)
    if abs(ratio - 1) > SAME_SHAPE:
        advice = "It was hardly trained so; cut or pad the dataset's images to its ratio of sides."
        return warning(check, f"{detail}, which stretches them", advice=advice)
    return ok(check, detail)


def check_normalisation(
    preprocessing: Preprocessing, pixel_mean: Sequence[float] = (), pixel_std: Sequence[float] = ()
) -> Finding:
    """Say whether mean and std can be meant for pixels from 0 to 1, and for pixels like the dataset's.

    Args:
        preprocessing: of the teacher.
        pixel_mean: of the dataset, a channel, on the scale 0 to 1; empty where there is none.
        pixel_std: the same.
    """
    check, mean, std = "normalisation", preprocessing.mean, preprocessing.std
    told = f"mean {_numbers(mean)}, std {_numbers(std)}"
    if max(std) > 1 or min(mean) < 0 or max(mean) > 1:
        return failed(
            check,
            f"{told}: no pixels from 0 to 1 have these",
            "Give them for pixels from 0 to 1: divide by 255 what is meant for 0 to 255.",
        )
    if not pixel_mean:
        return ok(check, told)
    # One channel becomes three alike: each is then compared with the same pixels.
    theirs = [tuple(of) * (len(mean) // len(of)) for of in (pixel_mean, pixel_std)]
    seen_mean = [(of - by) / scale for of, by, scale in zip(theirs[0], mean, std, strict=True)]
    seen_std = [of / scale for of, scale in zip(theirs[1], std, strict=True)]
    told += f"; of this dataset the net sees mean {_numbers(seen_mean)} and deviation {_numbers(seen_std)}"
    far = max(abs(of) / max(scale, 1.0) for of, scale in zip(seen_mean, seen_std, strict=True)) > FAR_FROM_0
    if far or max(seen_std) > FAR_FROM_1 or min(seen_std) < 1 / FAR_FROM_1:
        advice = "Nets are trained near 0 and 1: look whether mean and std are those of its training."
        return warning(check, told, advice)
    return ok(check, told)


# --- what it answers ---------------------------------------------------------------------------------------


def check_finite(logits: Logits, *, first_row: int = 0) -> Finding:
    """Name the rows in which a logit is NaN or infinite, counted from `first_row`."""
    rows = np.flatnonzero(~np.isfinite(logits).all(axis=1)) + first_row
    if not len(rows):
        return ok("logits are finite", f"in all {len(logits):,} rows")
    return failed(
        "logits are finite",
        f"not in {len(rows):,} of {len(logits):,} rows: {_some(rows.tolist())}",
        "Look at the weights, at mean and std, and at the precision: float16 ends at 65,504.",
    )


def check_repeatable(once: Logits, again: Logits, alone: Logits, *, precision: str) -> Finding:
    """Compare what was answered about the same images in a batch, in the same batch again, and one by one.

    Args:
        once: the answer to a batch.
        again: to the same batch.
        alone: to each of its images in a batch of its own.
        precision: of the teacher's products: what rounding may change.
    """
    check, most = "the same answer twice", REPEAT_TOLERANCES[precision]
    extent = np.maximum(np.ptp(once, axis=1), 1e-6)
    twice = float((np.abs(again - once).max(axis=1) / extent).max())
    single = float((np.abs(alone - once).max(axis=1) / extent).max())
    if twice > most:
        return failed(
            check,
            f"asked twice about the same images it answers otherwise, by {twice:.1%} of a row's range",
            "It draws at random: export it in evaluation mode, so that dropout is off.",
        )
    if single > most:
        return failed(
            check,
            f"an image alone is answered otherwise than in a batch of {len(once)}, by {single:.1%} of a "
            "row's range",
            "It takes statistics of the batch: export it in evaluation mode, so that batch normalisation "
            "uses its own.",
        )
    return ok(check, "in a batch, in the same batch again, and one by one")


def check_logits(logits: Logits) -> Finding:
    """Say whether rows are probabilities: each in 0 to 1, with sum 1. Logits are as the model gives them."""
    check = "logits, not probabilities"
    inside = logits.min() >= -SUM_TOLERANCE and logits.max() <= 1 + SUM_TOLERANCE
    if inside and float(np.abs(logits.sum(axis=1) - 1).max()) <= SUM_TOLERANCE:
        return _are_probabilities(check, "every row lies in 0 to 1 and sums to 1")
    return ok(check, f"from {float(logits.min()):.3g} to {float(logits.max()):.3g}")


def check_centred_logits(logits: Logits) -> Finding:
    """Say the same where each row was moved to zero mean, as the teacher service does.

    Probabilities then lie in -1/C to 1 - 1/C. Small logits may do so too; but hardly in every row, while some
    row has an entry that stands for more than one half.
    """
    check, classes = "logits, not probabilities", logits.shape[1]
    moved = logits + 1 / classes
    inside = moved.min() >= -SUM_TOLERANCE / classes and moved.max() <= 1 + SUM_TOLERANCE
    if inside and float(moved.max()) > 0.5:
        return _are_probabilities(check, "every row is probabilities less their mean")
    return ok(check, f"from {float(logits.min()):.3g} to {float(logits.max()):.3g}")


def check_alike(logits: Logits) -> Finding:
    """Say whether answers depend on the images at all."""
    check = "answers follow the images"
    centred = logits - logits.mean(axis=1, keepdims=True)
    within, between = float(centred.std(axis=1).mean()), float(centred.std(axis=0).mean())
    if between <= ALIKE * within or within == 0:
        return failed(
            check,
            "all images get the same logits",
            "Look at mean and std, and whether the weights were loaded: the net does not see its input.",
        )
    return ok(check, f"logits differ by {between:.3g} between images and by {within:.3g} within a row")


def check_named(logits: Logits, classes: Sequence[str], labels: Labels | None = None) -> Finding:
    """Say whether one class is named for nearly all images, or one never that is among them."""
    check = "classes that are named"
    named = np.bincount(logits.argmax(axis=1), minlength=len(classes))
    top = int(named.argmax())
    share = float(named[top]) / len(logits)
    expected = 0.0 if labels is None else float((labels == top).mean())
    if share > CONSTANT_SHARE > expected:
        return warning(
            check,
            f"{classes[top]!r} is named for {_percent(share)} of the images",
            "Look at mean and std, and whether it was trained.",
        )
    present = named if labels is None else np.bincount(labels, minlength=len(classes))
    never = [name for name, asked, told in zip(classes, present, named, strict=True) if asked and not told]
    if never:
        return warning(check, f"the teacher never names {len(never)} of the classes: {_some(never)}")
    return ok(check, f"{np.count_nonzero(named)} of {len(classes)} on {len(logits):,} images")


def evaluation_of(logits: Logits, labels: Labels, classes: Sequence[str]) -> Evaluation:
    """Return the figures on labelled images at T = 1; logits are finite."""
    return evaluate(torch.from_numpy(logits), torch.from_numpy(labels), classes)


def check_accuracy(found: Evaluation, claimed: float | None) -> Finding:
    """Compare the accuracy on labelled images with what is claimed and with naming the commonest class."""
    check, (low, high) = "accuracy", found.accuracy_interval
    told = (
        f"right on {_percent(found.accuracy)} of {found.examples:,} images "
        f"(95 % interval {_percent(low)} to {_percent(high)})"
    )
    if claimed is not None and claimed > high:
        return failed(
            check,
            f"{told}, {_percent(claimed)} is claimed",
            "Look at the order of the classes, mean and std, and the size it was trained at; or claim less.",
        )
    commonest = max(map(sum, found.confusion)) / found.examples
    if low <= commonest:
        return warning(
            check,
            f"the teacher is near chance: it is {told}, and always naming the most frequent class would "
            f"be on {_percent(commonest)}",
            "Look at the order of the classes, mean and std; such a teacher is not expected to help.",
        )
    agrees = "" if claimed is None else f", {_percent(claimed)} is claimed"
    return ok(check, told + agrees)


def may_be_beaten(right: int, count: int) -> bool:
    """Return whether any other way of showing the images could be called better: see `check_alternatives`."""
    return wilson_interval(right, count)[1] < wilson_interval(count, count)[0]


def check_alternatives(right: int, count: int, tried: Mapping[str, int]) -> Finding:
    """Say whether the teacher is much better when it is shown the images in another way.

    Much better is where the 95 % intervals do not meet, so that no number has to be chosen.

    Args:
        right: images that are answered rightly as they are shown now.
        count: of the images.
        tried: how many are answered rightly when shown in another way, by that way in words.
    """
    check, high = "channels and pixels", wilson_interval(right, count)[1]
    if not tried:
        return ok(check, f"right on {right} of {count}: nothing can be much better")
    best = max(tried, key=lambda way: tried[way])
    if wilson_interval(tried[best], count)[0] > high:
        return warning(
            check,
            f"with {best} it is right on {tried[best]} of {count} images, as it is shown them now on {right}",
            "It was trained so: correct mean and std, or the order of its channels.",
        )
    return ok(check, f"no better with {', '.join(tried)}")


def check_calibration(found: Evaluation) -> Finding:
    """Tell the expected calibration error; a figure, no judgement: T changes it."""
    return ok(
        "calibration",
        f"confidence and accuracy are {found.ece:.3f} apart on average (ECE), NLL {found.nll:.3f} nats",
    )


# --- words -------------------------------------------------------------------------------------------------


def _are_probabilities(check: str, detail: str) -> Finding:
    return failed(
        check,
        f"{detail}: softmax of these would be nearly flat",
        "Set `answers: probabilities`, or let the model answer before its softmax.",
    )


def _size(image: ImageInput) -> str:
    return f"{image.height} x {image.width} x {image.channels}"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _some(values: Sequence[object]) -> str:
    return ", ".join(map(str, values[:SHOWN])) + (", …" if len(values) > SHOWN else "")


def _names(words: str, names: set[str]) -> str:
    return f"; {words} {_some(sorted(names))}" if names else ""
