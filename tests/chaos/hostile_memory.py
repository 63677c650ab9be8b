"""Decodes images and says how much memory each took at the most: `python -m tests.chaos.hostile_memory`.

In a process of its own, whose allocator gives large pieces back at once: else one image would find the room
that another has left, and take nothing. Standard input: each image after its length in 8 bytes; standard
output a line of JSON for each.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from shared.datasets.images import ImageLimits, decode_image
from shared.errors import DistillationError

ROOT = Path(__file__).resolve().parents[2]


def most_memory(images: Mapping[str, bytes]) -> dict[str, tuple[float, str]]:
    """Return by how many MiB a process grew while it looked at each image, and what came of it."""
    frames = b"".join(len(data).to_bytes(8, "little") + data for data in images.values())
    child = subprocess.run(
        [sys.executable, "-m", "tests.chaos.hostile_memory"],
        input=frames, stdout=subprocess.PIPE, cwd=ROOT, check=True, timeout=600,
        env={"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "PATH": ""},
    )  # fmt: skip
    lines = [json.loads(line) for line in child.stdout.splitlines()]
    return {name: (kib / 1024, code) for name, (kib, code) in zip(images, lines, strict=True)}


def _most_rss_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    while length := sys.stdin.buffer.read(8):
        data = sys.stdin.buffer.read(int.from_bytes(length, "little"))
        code = "taken"
        Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets how much it was before
        before = _most_rss_kib()
        try:
            decode_image(data, ImageLimits())
        except DistillationError as error:
            code = error.code
        except Exception as error:  # noqa: BLE001 - whoever started this looks at it
            code = repr(error)
        print(json.dumps([_most_rss_kib() - before, code]), flush=True)


if __name__ == "__main__":
    main()
