"""Writes small archives in the layout of the real datasets, for tests."""

import io
import tarfile
import wave
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def tar_xz(path: Path, members: Mapping[str, bytes]) -> Path:
    """Write a tar.xz with these files, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:xz", preset=0) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def zip_file(path: Path, members: Mapping[str, bytes]) -> Path:
    """Write a zip with these files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def jpeg(colour: tuple[int, int, int], side: int = 32) -> bytes:
    """Return a JPEG of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "JPEG", quality=95)
    return file.getvalue()


def png_bits(ink: np.ndarray) -> bytes:
    """Return a PNG of one bit a pixel, black where `ink` is true."""
    file = io.BytesIO()
    Image.fromarray(~ink).save(file, "PNG")
    return file.getvalue()


def wav(samples: np.ndarray, rate_hz: int = 8_000, channels: int = 1) -> bytes:
    """Return a WAV file of 16 bits."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(2)
        sound.setframerate(rate_hz)
        sound.writeframes(samples.astype("<i2").tobytes())
    return file.getvalue()
