"""The Free Spoken Digit Dataset as frames: which digit is being said, judged from an instant of sound.

It stands in for the acoustic model of the paper (arXiv:1503.02531, section 4): 40 log-mel values every 10 ms,
classified together with their neighbours.
"""

import io
import re
import wave
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.artefacts.datasets import Split
from shared.datasets.builtin.archives import broken, tar_members
from shared.datasets.builtin.log_mel import RATE_HZ, log_mel, with_context
from shared.datasets.builtin.mnist import DIGITS
from shared.datasets.builtin.table import Builtin, Files, Read, in_data_dir

CONTEXT: Final = 5
"""Frames before and after; 11 in all see 125 ms."""
QUIETEST: Final = -16.0
LOUDEST: Final = 5.0
"""Logarithms of energy that become 0 and 255; what lies beyond is cut off. Of all values in the training
recordings (-18.1 to 7.1, mean -5.6, deviation 4.0) 99.9 % lie above the one and 99.9 % below the other."""
TEST_BELOW: Final = 5
VALIDATION_FROM: Final = 45
"""Recordings of a digit and a speaker are numbered 0 to 49: 0-4 are the official test set; of the others,
45-49 validate. So the frames of a recording are in one split only."""
_MEMBER: Final = re.compile(r"recordings/([0-9])_([a-z]+)_([0-9]{1,2})\.wav")


class Counts(NamedTuple):
    """Speakers, and recordings of each digit by each of them."""

    speakers: int = 6
    recordings: int = 50


REAL: Final = Counts()


def read(files: Files, counts: Counts = REAL) -> Read:
    """Read `recordings.tar.xz`: recordings/DIGIT_SPEAKER_NUMBER.wav, mono, 16 bits, 8 kHz.

    Images are 40 (bands, low ones on top) x 11 (time) x 1; the label is the digit of the recording.
    """
    (file,) = files
    frames: dict[str, list[NDArray[np.uint8]]] = {"train": [], "validation": [], "test": []}
    labels: dict[str, list[int]] = {split: [] for split in frames}
    speakers: dict[str, int] = {}
    for member, data in tar_members(file):
        match = _MEMBER.fullmatch(member)
        if match is None or int(match[3]) >= counts.recordings:
            raise broken(file, f"{member} should be recordings/DIGIT_SPEAKER_NUMBER.wav")
        split = _split_of(int(match[3]))
        frames[split].append(to_bytes(log_mel(_samples(file, member, data))))
        labels[split].append(int(match[1]))
        speakers[match[2]] = speakers.get(match[2], 0) + 1
    if len(speakers) != counts.speakers or set(speakers.values()) != {len(DIGITS) * counts.recordings}:
        raise broken(
            file,
            f"it should hold {counts.recordings} recordings of each digit by {counts.speakers} speakers, "
            f"holds {sum(speakers.values()):,} by {len(speakers)}",
        )
    return {split: _together(frames.pop(split), labels[split]) for split in list(frames)}, DIGITS


def to_bytes(logarithms: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return logarithms of energy as 0 to 255, in steps of 21 / 255 nats."""
    scaled = (logarithms - QUIETEST) * (255 / (LOUDEST - QUIETEST))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def _split_of(number: int) -> str:
    if number < TEST_BELOW:
        return "test"
    return "validation" if number >= VALIDATION_FROM else "train"


def _together(recordings: list[NDArray[np.uint8]], digits: list[int]) -> Split:
    images = np.concatenate([with_context(frames, CONTEXT) for frames in recordings])
    return Split(images, np.repeat(np.array(digits, np.int64), [len(frames) for frames in recordings]))


def _samples(file: Path, member: str, data: bytes) -> NDArray[np.int16]:
    try:
        with wave.open(io.BytesIO(data)) as sound:
            if (sound.getnchannels(), sound.getsampwidth(), sound.getframerate()) != (1, 2, RATE_HZ):
                raise broken(file, f"{member} is not mono with 16 bits at {RATE_HZ:,} Hz")
            expected, samples = sound.getnframes(), sound.readframes(sound.getnframes())
    except (wave.Error, EOFError) as error:
        raise broken(file, f"{member} is no WAV file or cut short") from error
    if len(samples) != 2 * expected:
        raise broken(file, f"{member} is cut short")
    return np.frombuffer(samples, "<i2")


SPOKEN_DIGITS: Final = Builtin(in_data_dir("fsdd/recordings.tar.xz"), read)
