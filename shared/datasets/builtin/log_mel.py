"""Log-mel frames: what a speech recogniser sees of a sound (Hinton et al. 2015, section 4, has 40 of them).

Frame k is centred at k hops. It is weighed by a Hann window, and its power spectrum is summed in 40 triangles
that are evenly spaced on the mel scale (O'Shaughnessy: 2595 log10(1 + f / 700)).
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

RATE_HZ: Final = 8_000
WINDOW: Final = 200
"""Samples: 25 ms."""
HOP: Final = 80
"""Samples: 10 ms."""
SPECTRUM: Final = 256
"""Samples of the Fourier transform; the window is padded with zeros."""
BANDS: Final = 40
FLOOR: Final = 1e-8
"""Added to the energy of a band, so that silence has a logarithm; samples are on the scale -1 to 1."""


def log_mel(samples: NDArray[np.int16]) -> NDArray[np.float64]:
    """Return the natural logarithm of each band's energy, frames x 40, low bands first.

    Args:
        samples: one channel at 8 kHz, 16 bits; n of them make 1 + n // 80 frames.
    """
    padded = np.pad(samples / 32_768, (WINDOW // 2, WINDOW // 2))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames * _HANN, SPECTRUM)) ** 2
    return np.log(power @ _TRIANGLES + FLOOR)


def with_context(frames: NDArray[np.uint8], context: int) -> NDArray[np.uint8]:
    """Return each frame amid its neighbours as an image: N x bands x (2 context + 1) x 1.

    Time runs from left to right and the frame itself stands in the middle; the first and the last frame are
    repeated beyond the ends.
    """
    padded = np.pad(frames, ((context, context), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * context + 1, axis=0)
    return np.ascontiguousarray(windows)[..., np.newaxis]


def _triangles() -> NDArray[np.float64]:
    """Return the weight of each frequency in each band, (SPECTRUM / 2 + 1) x BANDS; peaks are 1."""
    highest = 2595 * np.log10(1 + RATE_HZ / 2 / 700)
    edges_hz = 700 * (10 ** (np.linspace(0, highest, BANDS + 2) / 2595) - 1)
    frequencies = np.arange(SPECTRUM // 2 + 1) * RATE_HZ / SPECTRUM
    low, peak, high = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    rising = (frequencies[:, np.newaxis] - low) / (peak - low)
    falling = (high - frequencies[:, np.newaxis]) / (high - peak)
    return np.maximum(0, np.minimum(rising, falling))


_HANN: Final = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
_TRIANGLES: Final = _triangles()
