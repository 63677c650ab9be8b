"""Which processor this is: a time measured on one says little of another."""

import platform
from collections.abc import Mapping
from pathlib import Path

_INSTRUCTIONS: Mapping[str, str] = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX-512 VNNI",
    "amx_int8": "AMX int8",
    "asimddp": "dot product",
    "i8mm": "int8 matrix product",
}


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the name of the processor and those of its instructions that matter to 8-bit products.

    Args:
        cpuinfo: Linux's description of it; elsewhere Python's word is all there is.
    """
    facts: dict[str, str] = {}
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip().lower(), value.strip())
    name = facts.get("model name") or platform.processor() or platform.machine() or "unknown"
    flags = set(facts.get("flags", facts.get("features", "")).split())
    instructions = [word for flag, word in _INSTRUCTIONS.items() if flag in flags]
    return f"{name} ({', '.join(instructions)})" if instructions else name
