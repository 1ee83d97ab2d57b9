"""The one place that talks to TensorRT and TensorRT-RTX: two libraries with one API and small differences.

The only module that imports them. What a library can do is probed, never read from its version. Building is in
export/engines/tensorrt.py, loading in runtime/backends/tensorrt/loaded_plan.py.
"""

import functools
import logging
import re
from collections import deque
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from e2e_deploy.errors import UnavailableError
from e2e_deploy.names import PLAN_TITLES, TrtKind
from e2e_deploy.nvidia.trt_messages import NO_DRIVER, tidy
from e2e_deploy.packages import require

LIBRARIES: dict[TrtKind, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Name (also the name of the extra): module."""

PORTABLE = "sm80+"
"""TensorRT-RTX's default target: one plan for compute capability 8.0, 8.6, 8.9, 12.0 and later."""

log = logging.getLogger("e2e_deploy.tensorrt")
log.addHandler(logging.NullHandler())  # errors become exceptions; nothing is printed twice

_NEEDED = (
    "Builder.build_serialized_network",
    "IBuilderConfig.progress_monitor",
    "ICudaEngine.device_memory_size_v2",
    "IExecutionContext.execute_async_v3",
    "OnnxParser.parse_from_file",
    "ParserError.node_name",
)


@functools.cache
def _logger(base: Any) -> Any:
    """An ILogger into Python's logging; ``errors`` keeps the last ones until they become an exception.

    One for each library, which keeps to the first it is given. Not an IErrorRecorder: with one, TensorRT-RTX 1.7.1
    crashes when a network is released.
    """
    severity = base.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.INFO,
    }

    class Logger(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self.errors: deque[str] = deque(maxlen=32)

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            if level >= logging.ERROR:
                self.errors.append(message)
            log.log(level, "%s", message)

    return Logger()


class TrtApi:
    """One of the two libraries.

    Attributes:
        name: a key of LIBRARIES.
        version: as the library says it.
        module: the library itself.

    Raises:
        UnavailableError: the library lacks something this package needs.
    """

    def __init__(self, name: TrtKind, module: Any) -> None:
        self.name = name
        self.module = module
        self.version = str(getattr(module, "__version__", "of unknown version"))
        for path in _NEEDED:
            owner, _, member = path.partition(".")
            if not hasattr(getattr(module, owner, None), member):
                wanted = "tensorrt 10.12" if name == "tensorrt" else "tensorrt-rtx 1.7"
                raise UnavailableError(
                    f"{self.title} has no {path}; this package needs {wanted} or later: "
                    f"pip install --upgrade 'e2e-deploy[{name}]'"
                )
        self.logger = _logger(module.ILogger)

    @property
    def title(self) -> str:
        """Library and version for people."""
        return f"{PLAN_TITLES[self.name]} {self.version}"

    @property
    def builds_without_gpu(self) -> bool:
        """Whether plans for named targets can be built here; else only for the GPU at hand."""
        return hasattr(self.module.IBuilderConfig, "num_compute_capabilities")

    @property
    def targets(self) -> tuple[str, ...]:
        """What plans can be built for without a GPU; empty where one is needed."""
        if not self.builds_without_gpu:
            return ()
        names = self.module.ComputeCapability.__members__
        return (PORTABLE, *(name.lower() for name in names if re.fullmatch(r"SM\d+", name)))

    @property
    def cuda_major(self) -> int:
        """Major version of CUDA the installed wheel was made for; 0 when its packages do not tell."""
        for major in (13, 12):
            try:
                version(f"{LIBRARIES[self.name]}_cu{major}")
            except PackageNotFoundError:
                continue
            return major
        return 0

    def take_errors(self) -> list[str]:
        """What the library complained of since this was last called."""
        said = list(self.logger.errors)
        self.logger.errors.clear()
        return said

    def create(self, kind: str) -> Any:
        """A Builder or Runtime.

        Raises:
            UnavailableError: there is no driver, or it does not fit.
        """
        self.take_errors()
        try:
            made = getattr(self.module, kind)(self.logger)
        except TypeError:  # how the bindings say that the library returned nothing
            made = None
        if made is None:
            said = self.take_errors()
            if not said or any(NO_DRIVER.search(m) for m in said):
                raise UnavailableError(
                    f"{self.title} needs an NVIDIA GPU with a driver, and this machine has none that it can use"
                )
            raise UnavailableError(f"{self.title} does not start: {tidy(said)}")
        return made


@functools.cache
def find_api(name: TrtKind) -> TrtApi:
    """The library ``name``, a key of LIBRARIES.

    Raises:
        UnavailableError: it is not installed, does not load, or is too old.
    """
    try:
        module = require(LIBRARIES[name], name)
    except (OSError, RuntimeError) as error:  # its own loader of shared libraries
        raise UnavailableError(
            f"the package {LIBRARIES[name]!r} does not load ({error}); "
            f"reinstall it: pip install --force-reinstall 'e2e-deploy[{name}]'"
        ) from error
    return TrtApi(name, module)
