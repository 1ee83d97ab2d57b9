"""Which of Mitsuba's variants renders on this machine: found out with real scenes in another process, and remembered.

Seen with Dr.Jit 1.5: LLVM 15 and 16 end the process at the first scene ("Cannot select ... fminimum"), on x86 with and
without AVX-512, at every vector width; LLVM 19 does not. Loading LLVM, or a small kernel, shows nothing of it.
"""

import json
import logging
import re
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.nvidia.hardware import cpu_features, cpu_name
from e2e_deploy.packages import require
from e2e_deploy.system.cache_folder import cache_key, default_folder, private_folder
from e2e_deploy.system.child import Crash
from e2e_deploy.system.files import whole_file
from e2e_deploy.system.json_files import read_json
from e2e_deploy.system.text import clean
from e2e_deploy.train.rendering.worker import COMPILED, SCALAR, RenderJob, Worker, in_words

log = logging.getLogger(__name__)

_PROBE_SEEDS = (8, 5)  # a small place with a lamp, a small place outside: all kinds of kernels


def choose_variant() -> str:
    """Sets Mitsuba's fastest variant that renders here, unless one is set; returns its name.

    Raises:
        UnavailableError: mitsuba is not installed.
    """
    mi = require("mitsuba", "train")
    if mi.variant() is None:
        fault = _loading(mi) or _compiling(_facts())
        mi.set_variant(SCALAR if fault else COMPILED)
        if fault:
            log.warning(
                "%s; rendering with %s, about six times slower (LLVM 19 is known to work)",
                fault,
                SCALAR,
            )
        log.info("rendering with mitsuba %s, variant %s", mi.__version__, mi.variant())
    return str(mi.variant())


def _loading(mi: Any) -> str:
    """Why the compiled variant does not load; empty where it does."""
    try:
        mi.set_variant(COMPILED)
        mi.Float([0.0, 1.0]).numpy()  # some versions load LLVM at the first use, not before
    except (ImportError, RuntimeError) as error:
        return f"LLVM does not load ({clean(str(error))})"
    return ""


def _facts() -> dict[str, str]:
    """All that decides whether it compiles."""
    return {
        "mitsuba": version("mitsuba"),
        "drjit": version("drjit"),
        "llvm": ".".join(re.findall(r"\d+", str(require("drjit.detail", "train").llvm_version()))),
        "cpu": cpu_name(),
        "features": cpu_features(),
    }


def _compiling(facts: dict[str, str]) -> str:
    """Why the compiled variant does not compile; empty where it does. Asked of a worker once, then of its record."""
    fault = _remembered(facts)
    if fault is None:
        crash = _probe()
        fault = f"Mitsuba with LLVM {facts['llvm']} ends with {in_words(crash)}" if crash else ""
        if crash is None or not crash.was_killed:  # memory may be there next time
            _remember(facts, fault)
    return fault


def _probe() -> Crash | None:
    """Render small scenes as those of a data set are; None where that works."""
    with tempfile.TemporaryDirectory() as folder, Worker(COMPILED, 1) as worker:
        for seed in _PROBE_SEEDS:
            crash = worker.render(RenderJob(folder, f"{seed}", seed, (16, 16), 1))
            if crash is not None:
                return crash
    return None


def _record(facts: dict[str, str]) -> Path:
    return default_folder() / "renderer" / f"{cache_key(facts)}.json"


def _remembered(facts: dict[str, str]) -> str | None:
    """What `_remember` kept; None where nothing is, or nothing that can be read."""
    try:
        kept = read_json(_record(facts))
    except E2EDeployError:
        return None
    fault = kept.get("fault")
    return clean(fault) if isinstance(fault, str) else None


def _remember(facts: dict[str, str], fault: str) -> None:
    """Keep it for the next start; a folder that cannot be written costs a probe each time and nothing else."""
    try:
        record = _record(facts)
        private_folder(record.parent)
        with whole_file(record) as partial:
            partial.write_text(json.dumps({"fault": fault, **facts}), encoding="utf-8")
    except E2EDeployError as error:
        log.info("%s", error)
