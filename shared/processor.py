"""Which processor this is, and what ONNX Runtime has to be told of it.

A time measured on one says little of another, so figures are kept with its name.
"""

import platform
from collections.abc import Mapping
from functools import cache
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
_SUMS_IN_32_BITS = frozenset({"avx_vnni", "avx512_vnni"})
_CPUINFO = Path("/proc/cpuinfo")


def processor(cpuinfo: Path = _CPUINFO) -> str:
    """Return the name of the processor and those of its instructions that matter to 8-bit products.

    Args:
        cpuinfo: Linux's description of it; elsewhere Python's word is all there is.
    """
    facts = _facts(cpuinfo)
    name = facts.get("model name") or platform.processor() or platform.machine() or "unknown"
    flags = _flags(facts)
    instructions = [word for flag, word in _INSTRUCTIONS.items() if flag in flags]
    return f"{name} ({', '.join(instructions)})" if instructions else name


@cache
def session_entries(cpuinfo: Path = _CPUINFO) -> Mapping[str, str]:
    """Return the entries of a session of ONNX Runtime that may run a graph in 8 bits.

    Without VNNI, sums of 8-bit products overflow 16 bits on x86 with AVX2 or AVX-512; told so, ONNX Runtime
    takes a way there that is right. It is told so only there, as that way takes half as long again at
    8 images and two thirds at 32.
    """
    return {} if _SUMS_IN_32_BITS & _flags(_facts(cpuinfo)) else {"session.x64quantprecision": "1"}


def _facts(cpuinfo: Path) -> dict[str, str]:
    facts: dict[str, str] = {}
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip().lower(), value.strip())
    return facts


def _flags(facts: Mapping[str, str]) -> set[str]:
    return set(facts.get("flags", facts.get("features", "")).split())
