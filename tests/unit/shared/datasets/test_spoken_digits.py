"""Spoken digits: log-mel frames, and their split by recording."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shared.datasets.builtin.log_mel import log_mel, with_context
from shared.datasets.builtin.spoken_digits import Counts, read, to_bytes
from shared.errors import InvalidDataset
from tests.support.archives import tar_xz, wav

# --- log-mel frames ----------------------------------------------------------------------------------------


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-3_000, 3_000, samples).astype(np.int16)


def test_a_frame_is_the_formula_by_hand() -> None:
    """Window, transform, triangles and logarithm, each as its sum."""
    samples = noise(1_000)
    frame, first = 5, 5 * 80 - 100
    x = samples[first : first + 200].astype(np.float64) / 32_768
    n = np.arange(200)
    x = x * np.sin(np.pi * n / 200) ** 2  # the Hann window
    power = [
        np.sum(x * np.cos(2 * np.pi * k * n / 256)) ** 2 + np.sum(x * np.sin(2 * np.pi * k * n / 256)) ** 2
        for k in range(129)
    ]
    mel = np.linspace(0, 2595 * np.log10(1 + 4_000 / 700), 42)
    hz = 700 * (10 ** (mel / 2595) - 1)
    for band in (0, 7, 39):
        low, peak, high = hz[band : band + 3]
        energy = 0.0
        for k, value in enumerate(power):
            f = k * 8_000 / 256
            if low < f <= peak:
                energy += value * (f - low) / (peak - low)
            elif peak < f < high:
                energy += value * (high - f) / (high - peak)
        np.testing.assert_allclose(log_mel(samples)[frame, band], np.log(energy + 1e-8), rtol=1e-9)


@pytest.mark.parametrize("hz", [300, 1_000, 2_500, 3_500])
def test_a_tone_is_loudest_in_the_band_around_it(hz: int) -> None:
    samples = (8_000 * np.sin(2 * np.pi * hz * np.arange(2_000) / 8_000)).astype(np.int16)
    centres = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 4_000 / 700), 42)[1:-1] / 2595) - 1)
    nearest = int(np.abs(centres - hz).argmin())
    assert abs(int(log_mel(samples)[10].argmax()) - nearest) <= 1


def test_twice_as_loud_is_four_times_the_energy() -> None:
    quiet = noise(1_000)
    np.testing.assert_allclose(log_mel(2 * quiet) - log_mel(quiet), np.log(4), atol=1e-3)


def test_frames_come_every_ten_milliseconds() -> None:
    samples = noise(4_000)
    later = np.concatenate([np.zeros(80, np.int16), samples])
    np.testing.assert_allclose(log_mel(later)[6:50], log_mel(samples)[5:49])


@pytest.mark.parametrize(("samples", "frames"), [(0, 1), (79, 1), (80, 2), (1_148, 15), (8_000, 101)])
def test_a_recording_has_a_frame_for_each_hop_and_one_more(samples: int, frames: int) -> None:
    assert log_mel(noise(samples)).shape == (frames, 40)


def test_silence_has_a_logarithm() -> None:
    np.testing.assert_allclose(log_mel(np.zeros(200, np.int16)), np.log(1e-8))


def test_a_frame_stands_amid_its_neighbours() -> None:
    frames = np.arange(6 * 40, dtype=np.uint8).reshape(6, 40)
    images = with_context(frames, 2)
    assert images.shape == (6, 40, 5, 1)
    np.testing.assert_array_equal(images[:, :, 2, 0], frames)
    np.testing.assert_array_equal(images[3, :, :, 0].T, frames[1:6])
    np.testing.assert_array_equal(images[0, :, :, 0].T, frames[[0, 0, 0, 1, 2]])
    np.testing.assert_array_equal(images[5, :, :, 0].T, frames[[3, 4, 5, 5, 5]])


def test_logarithms_become_bytes_by_one_line_and_are_cut_off_at_its_ends() -> None:
    values = np.array([-20.0, -16.0, -16 + 21 / 255, -5.5, 5.0, 7.0])
    assert to_bytes(values).tolist() == [0, 0, 1, 128, 255, 255]


# --- the dataset -------------------------------------------------------------------------------------------

SMALL = Counts(speakers=1, recordings=50)


def members(rate_hz: int = 8_000, channels: int = 1) -> dict[str, bytes]:
    """A recording of digit d and number n has 80 (d + 1) - 1 samples, so d + 1 frames, of loudness n."""
    return {
        f"recordings/{digit}_ann_{number}.wav": wav(
            np.full(80 * (digit + 1) - 1, 100 * number + 1), rate_hz, channels
        )
        for digit in range(10)
        for number in range(50)
    }


def test_recordings_are_split_by_their_number_and_labelled_with_their_digit(tmp_path: Path) -> None:
    splits, classes = read((tar_xz(tmp_path / "r.tar.xz", members()),), SMALL)
    assert classes == tuple("0123456789")
    for name, numbers in (("test", range(5)), ("train", range(5, 45)), ("validation", range(45, 50))):
        split = splits[name]
        assert split.labels is not None
        assert split.images.shape == (55 * len(numbers), 40, 11, 1)
        expected = [digit for digit in range(10) for _ in numbers for _ in range(digit + 1)]
        assert sorted(split.labels.tolist()) == expected
        for digit in range(10):
            # One frame of a recording of digit 0: all its context is that frame again.
            of_digit = split.images[split.labels == digit]
            assert len(of_digit) == (digit + 1) * len(numbers)
        alone = split.images[split.labels == 0]
        np.testing.assert_array_equal(alone, np.repeat(alone[:, :, 5:6], 11, axis=2))
        loudness = [int(image[0, 0, 0]) for image in alone]
        expected_loudness = [
            int(to_bytes(log_mel(np.full(79, 100 * n + 1, np.int16)))[0, 0]) for n in numbers
        ]
        assert loudness == expected_loudness


def test_context_does_not_reach_into_another_recording(tmp_path: Path) -> None:
    """Digit 1 has two frames a recording: no image holds a third."""
    splits, _ = read((tar_xz(tmp_path / "r.tar.xz", members()),), SMALL)
    test = splits["test"]
    assert test.labels is not None
    pairs = test.images[test.labels == 1].reshape(5, 2, 40, 11)
    for first, second in pairs:
        both = {first[:, 5].tobytes(), second[:, 5].tobytes()}
        for image in (first, second):
            assert {image[:, column].tobytes() for column in range(11)} <= both


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda m: m.pop("recordings/3_ann_7.wav"), "50 recordings of each digit .* holds 499 by 1"),
        (lambda m: m.update({"recordings/3_bob_7.wav": m["recordings/3_ann_7.wav"]}), "holds 501 by 2"),
        (lambda m: m.update({"recordings/3_ann_50.wav": b""}), "3_ann_50.wav should be"),
        (lambda m: m.update({"readme.md": b""}), "readme.md should be"),
        (lambda m: m.update({"recordings/3_ann_7.wav": b"RIFF"}), "3_ann_7.wav is no WAV file or cut short"),
        (
            lambda m: m.update({"recordings/3_ann_7.wav": m["recordings/3_ann_7.wav"][:-9]}),
            "3_ann_7.wav is cut short",
        ),
        (lambda m: m.update(members(rate_hz=16_000)), "not mono with 16 bits at 8,000 Hz"),
        (lambda m: m.update(members(channels=2)), "not mono with 16 bits at 8,000 Hz"),
    ],
)
def test_recordings_that_are_not_whole_are_refused(
    tmp_path: Path, damage: Callable[[dict[str, bytes]], object], words: str
) -> None:
    files = members()
    damage(files)
    with pytest.raises(InvalidDataset, match=words):
        read((tar_xz(tmp_path / "r.tar.xz", files),), SMALL)
