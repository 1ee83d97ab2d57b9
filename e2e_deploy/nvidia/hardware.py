"""What this machine has: accelerators, asked of the driver itself, and free memory; imports no framework."""

import ctypes
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any


@cache
def cuda_device_count() -> int:
    """Number of CUDA devices the driver reports; 0 without a driver."""
    driver, count = _cuda_driver(), ctypes.c_int(0)
    if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def cuda_device_name(index: int) -> str:
    """Name of a CUDA device as the driver gives it; empty where there is no such device."""
    driver, device, name = _cuda_driver(), ctypes.c_int(0), ctypes.create_string_buffer(256)
    if driver is None or driver.cuDeviceGet(ctypes.byref(device), index) != 0:
        return ""
    if driver.cuDeviceGetName(name, len(name), device) != 0:
        return ""
    return name.value.decode(errors="replace").strip()


def _cuda_driver() -> Any:
    """The driver's library, ready to be asked, or None."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    return driver if driver.cuInit(0) == 0 else None


def cpu_name() -> str:
    """The processor's name as the kernel gives it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_features() -> str:
    """What the processor can do, as Linux names it: x86's flags, ARM's features; empty elsewhere."""
    return _cpuinfo("flags") or _cpuinfo("Features")


BF16_UNITS = {
    "amx_bf16": "AMX",
    "avx512_bf16": "AVX512-BF16",
    "bf16": "ARM BF16",
}
"""What the kernel calls a unit that multiplies bfloat16: its name for people; the fastest first."""


def bf16_units() -> list[str]:
    """Which units this processor multiplies bfloat16 with, the fastest first; none where it only converts it."""
    features = cpu_features().split()
    return [name for flag, name in BF16_UNITS.items() if flag in features]


def _cpuinfo(field: str) -> str:
    """A field of the first processor; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(rf"^{field}\s*:(.*)", text, re.MULTILINE)
    return found[1].strip() if found else ""


def available_memory_bytes(root: Path = Path("/")) -> int | None:
    """Memory that can be had without swapping, as Linux estimates it, and as a container's limit leaves it.

    Args:
        root: of the file system that tells.

    Returns:
        Bytes; None where nothing tells.
    """
    try:
        text = (root / "proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    free = int(text.split("MemAvailable:")[1].split()[0]) * 1024
    return max(0, min([free, *_left_in_cgroups(root)]))


def _left_in_cgroups(root: Path) -> Iterator[int]:
    """What each limit on this process's group and on those around it leaves (version 2, memory.max)."""
    top = root / "sys/fs/cgroup"
    try:
        text = (root / "proc/self/cgroup").read_text(encoding="utf-8")
    except OSError:
        return
    found = re.search(r"^0::/(.*)$", text, re.MULTILINE)
    group = top / found[1] if found else top
    for folder in (group, *group.parents):
        with suppress(OSError, ValueError):  # no limit there, or the word max
            limit = int((folder / "memory.max").read_text(encoding="ascii"))
            used = int((folder / "memory.current").read_text(encoding="ascii"))
            # The page cache counts as used, and goes when its room is needed.
            stat = (folder / "memory.stat").read_text(encoding="ascii").split()
            yield limit - used + int(stat[stat.index("inactive_file") + 1])
        if folder == top:
            return
