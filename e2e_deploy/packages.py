"""Packages imported where they are used: those of an extra, named in one sentence when missing, and two that call home.

Importing ONNX Runtime 1.31 makes a device id and a database of events under ~/.cache/Microsoft, and some seconds later
looks up mobile.events.data.microsoft.com. Its disable_telemetry_events() stops neither (seen with strace and a
getaddrinfo of our own); the variable, read once while it is imported, stops both.

Importing OpenVINO 2026.4 makes a client id under ~/intel and sends an event to Google Analytics. Without the package
openvino_telemetry it takes a stub of its own in its place, and less time.
"""

import importlib
import logging
import os
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from types import ModuleType
from typing import Any

from e2e_deploy.errors import UnavailableError

_SWITCH = "ORT_DISABLE_TELEMETRY"
_TELEMETRY = "openvino_telemetry"
_RUST_LOG = "RUST_LOG"


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, which the extra ``extra`` installs.

    Raises:
        UnavailableError: the module is not installed, or does not load; the message names the pip command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        reason = (
            "is not installed"
            if isinstance(error, ModuleNotFoundError)
            else f"does not load ({error})"
        )
        raise UnavailableError(
            f"the package {module.partition('.')[0]!r} {reason}: pip install 'e2e-deploy[{extra}]'"
        ) from error


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """The version of each of these distributions that is installed, by name."""
    from importlib import metadata  # slow to import, and no engine asks

    found = {}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@contextmanager
def environment(settings: Mapping[str, str], *, keep: bool = False) -> Iterator[None]:
    """A block in which this process, and those that it starts, have these variables; then what was before.

    Args:
        settings: values by name.
        keep: what is set already stays as it is.
    """
    ours = {name: value for name, value in settings.items() if not (keep and name in os.environ)}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def import_onnxruntime() -> ModuleType:
    """The onnxruntime package. A process that imported it before, or set the variable itself, keeps what it chose.

    Raises:
        UnavailableError: it is not installed, or does not load.
    """
    try:
        with environment({_SWITCH: "1"}, keep=True):
            return importlib.import_module("onnxruntime")
    except ImportError as error:
        reason = "is not installed" if isinstance(error, ModuleNotFoundError) else "does not load"
        raise UnavailableError(
            f"onnxruntime {reason} ({error}): pip install onnxruntime, or onnxruntime-gpu for NVIDIA GPUs"
        ) from error


def import_openvino(module: str = "openvino") -> ModuleType:
    """The openvino package, or a module of it. A process that has it, or its telemetry, already keeps what it chose.

    Raises:
        UnavailableError: it is not installed, or does not load.
    """
    is_ours = _TELEMETRY not in sys.modules
    if is_ours:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # what says that there is none
    try:
        return require(module, "openvino")
    finally:
        if is_ours:  # what else this process imports decides for itself
            del sys.modules[_TELEMETRY]


def import_rerun() -> ModuleType:
    """The rerun package, which prints nothing of its own: what fails is raised. RUST_LOG, if it is set, decides.

    Its library reads the variable once while it is imported. It sends nothing and leaves nothing in the home folder
    (rerun-sdk 0.41, seen with strace); the viewer, a program of its own, collects usage data until
    ``rerun analytics disable``.

    Raises:
        UnavailableError: it is not installed, or does not load.
    """
    with environment({_RUST_LOG: "off"}, keep=True):
        return require("rerun", "robotics")


_one_core = threading.Lock()


def openvino_core() -> Any:
    """OpenVINO's Core, one for the whole process and alive as long as it: call it where a Core is needed.

    A Core that loads the plugin of the CPU gives the thread a stack for signals, and puts back the one before when it
    ends (OpenVINO 2026.4, Linux). Of two that end in the order they came in, the second puts back what the first has
    freed, and the next signal that Python handles, such as Ctrl-C, is a segmentation fault.

    Raises:
        UnavailableError: openvino is not installed, or does not load.
    """
    openvino = import_openvino()
    with _one_core:  # a cache alone would make two for two threads
        return _core_of(openvino)


@cache
def _core_of(openvino: ModuleType) -> Any:
    return openvino.Core()


@contextmanager
def quiet(logger: str) -> Iterator[None]:
    """A block in which a library keeps its warnings, and what it logs below errors, to itself.

    Args:
        logger: the library's, by name.
    """
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            log.setLevel(level)


def cpp_compiler() -> str:
    """Path of the C++ compiler that PyTorch's compiler calls, for a GPU too; what was built needs none to run.

    Raises:
        UnavailableError: it is not here, or does not run.
    """
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    name = os.environ.get("CXX") or usual
    found = shutil.which(name)
    if found is None:
        raise UnavailableError(
            f"PyTorch compiles with a C++ compiler, and {name} is not here: install it (on Debian and Ubuntu: "
            "apt install g++), or set CXX to another"
        )
    try:
        if sys.platform != "win32":  # cl has no such option
            subprocess.run([found, "--version"], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        raise UnavailableError(
            f"PyTorch compiles with a C++ compiler, and `{name} --version` fails ({error}): set CXX to another"
        ) from error
    return found


def cuda_toolkit() -> str:
    """Folder of the CUDA toolkit, whose headers AOTInductor compiles code for a GPU with; found as PyTorch finds it.

    Raises:
        UnavailableError: it is not here: PyTorch's wheels bring CUDA's libraries and not all of its headers.
    """
    nvcc, usual = shutil.which("nvcc"), "/usr/local/cuda"
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    found = named or (os.path.dirname(os.path.dirname(nvcc)) if nvcc else usual)
    if not os.path.isdir(found):
        raise UnavailableError(
            "AOTInductor compiles for a GPU with the CUDA toolkit's headers, and neither CUDA_HOME, nor nvcc on the "
            f"PATH, nor {usual} leads to one: install the toolkit of the version that PyTorch was built with, or set "
            "CUDA_HOME to its folder; to run a package needs none"
        )
    return found


def require_compilers(*, for_gpu: bool) -> None:
    """Raise an UnavailableError where PyTorch's compiler cannot build, for a GPU without Triton."""
    if for_gpu:
        require("triton", "export")
    cpp_compiler()
