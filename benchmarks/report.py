"""What every result file holds: hardware, versions, commit, command and date. Used by all scripts here."""

import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from e2e_deploy.nvidia.hardware import cpu_name
from e2e_deploy.packages import installed_versions

HERE = Path(__file__).parent
RESULTS = HERE / "results"
CHANGES = ["status", "--porcelain", "--", ".", ":!benchmarks/results"]
"""Results are no code: several scripts may run one after the other on one commit."""
PACKAGES = ("torch", "diffusers", "onnx", "onnxruntime-gpu", "tensorrt-rtx", "numpy", "mitsuba")


def machine() -> dict[str, Any]:
    """Hardware this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts: dict[str, Any] = {"cpu": cpu_name(), "cores": cores, "system": platform.system()}
    if hasattr(os, "sysconf"):
        facts["memory_gib"] = round(
            os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1
        )
    return facts


def versions() -> dict[str, str]:
    """Versions of the packages that decide a number."""
    return {"python": platform.python_version()} | installed_versions(PACKAGES)


def commit() -> str:
    """The checkout's commit, with a mark when files differ from it."""
    try:
        head, dirty = (
            subprocess.run(
                ["git", *words],
                cwd=HERE.parent,  # wherever the script was started
                capture_output=True,
                text=True,
                check=True,
            )
            for words in (["rev-parse", "--short=12", "HEAD"], CHANGES)
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("-dirty" if dirty.stdout.strip() else "")


def write_result(
    name: str, result: dict[str, Any], folder: Path | None = None, *, quiet: bool = False
) -> Path:
    """Write ``<name>.json`` in a folder, RESULTS if None, and print it unless ``quiet``; returns the path."""
    # Folders of this machine mean nothing elsewhere.
    arguments = ["DIR" if Path(word).is_absolute() else word for word in sys.argv[1:]]
    started = sys.modules["__main__"].__spec__  # python -m
    module = started.name.removesuffix(".__main__") if started else "?"
    command = shlex.join(["python", "-m", module, *arguments])
    content = {
        "name": name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        **result,
    }
    folder = folder or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if not quiet:
        print(json.dumps(content))
    return path
