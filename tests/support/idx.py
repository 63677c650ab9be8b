"""Writes the idx format, for tests."""

import struct

import numpy as np


def idx_bytes(array: np.ndarray, kind: int = 8) -> bytes:
    """Return an idx file of unsigned bytes (or, wrongly, of another `kind`)."""
    header = bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()
