"""What kinds of CPU code is compiled for, by name, and which of them this one is.

The levels of x86-64 are those of its psABI, which compilers know by these names (``-march=x86-64-v3``).
"""

_V3 = frozenset(
    {
        *("cx16", "lahf_lm", "popcnt", "pni", "ssse3", "sse4_1", "sse4_2"),
        *("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"),
    }
)
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}

CPU_TARGETS: dict[str, frozenset[str]] = {
    "x86-64-v4": _V4,
    "x86-64-v3": _V3,
    "armv8-a": frozenset({"asimd", "fp"}),
}
"""Name: what a CPU must have, as /proc/cpuinfo calls it. A level above another one comes before it."""


def cpu_targets(features: str) -> tuple[str, ...]:
    """Names of CPU_TARGETS whose code a CPU runs, the best first; empty where nothing tells.

    Args:
        features: words, as hardware.cpu_features gives them.
    """
    has = set(features.split())
    return tuple(name for name, needed in CPU_TARGETS.items() if needed <= has)
