"""What every result file of a GPU holds beside its numbers: the device, its driver, versions and the commit."""

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.gpu.timing import Device
from e2e_deploy.packages import installed_versions

Result = dict[str, Any]
Write = Callable[[str, Result], None]
PACKAGES = ("triton", "accelerate", "transformers", "onnxruntime", "tensorrt", "cuda-python")
"""Beside those of report.PACKAGES."""


def versions() -> dict[str, str]:
    """Versions of what decides a number here."""
    return report.versions() | installed_versions(PACKAGES) | {"kernel": platform.release()}


def writer(
    out: Path, device: Device, commit: str | None, *, small: bool, quiet: bool = True
) -> Write:
    """What writes a result file into ``out`` by its name, and prints it unless ``quiet``."""
    held: Result = {"small": small, "device": device.facts(), "versions": versions()}
    if commit:
        held["commit"] = commit

    def write(name: str, result: Result) -> None:
        report.write_result(name, held | result, out, quiet=quiet)

    return write
