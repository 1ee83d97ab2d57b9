"""The settings of an ONNX Runtime session: ours, measured, then the user's."""

import os
from collections.abc import Mapping
from typing import Any

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.errors import UsageError
from e2e_deploy.runtime.backends.onnxruntime.memory import bound_memory

_LOG_NOTHING = 4
"""Fatal errors alone: every other is raised, and said in one sentence."""

LARGE_BYTES = 2**28
"""16-bit weights of this size are widened for the CPU when an operator needs them, smaller ones once at the start.

At the start they are there twice and thrice: SD2's take 20 s and 6 GiB, for runs that are 11 % faster (e2e-tiny: 30 %).
"""
_WIDEN_AT_START = "FuseFp16InitializerToFp32NodeTransformer"

_THREADS = "intra_op_num_threads"


def physical_cores() -> int:
    """CPU cores this process may use. MLAS gains nothing from a second thread on a core, but none is known here."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


def _is_large_half(bundle: Bundle) -> bool:
    files = bundle.manifest.files.items()
    num_bytes = sum(f.bytes for name, f in files if name.endswith((".onnx", ".data")))
    return bundle.manifest.precision == "fp16" and num_bytes >= LARGE_BYTES


def session_options(
    ort: Any,
    bundle: Bundle,
    *,
    on_cpu: bool,
    threads: int | None = None,
    given: Mapping[str, Any] | None = None,
) -> Any:
    """The SessionOptions for a graph of a bundle.

    Args:
        ort: the onnxruntime module.
        bundle: whose precision and size decide.
        on_cpu: the CPU computes, and not a GPU's provider.
        threads: of one operator; None for as many as there are cores.
        given: the user's: an attribute of SessionOptions by its name, or, with a dot in its name, a config entry, which
            ONNX Runtime does not check.

    Raises:
        UsageError: an option that ONNX Runtime has not, or a value it does not take.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # One long chain: nothing to run side by side.
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = physical_cores() if threads is None else threads
    options.inter_op_num_threads = 1
    # Threads spin for a moment between operators (the default): 12 % faster than letting them sleep, measured on
    # e2e-tiny with two cores.
    options.log_severity_level = _LOG_NOTHING
    # x86 CPUs without VNNI add pairs of 8-bit products in 16 bits, which saturate; other CPUs ignore this.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if on_cpu and _is_large_half(bundle):
        options.add_session_config_entry(
            "optimization.disable_specified_optimizers", _WIDEN_AT_START
        )
        # The default order widens all weights before the first operator.
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    bound_memory(ort, options)
    if threads is not None and _THREADS in (given or {}):
        raise UsageError(
            f"`threads` and {_THREADS} of `session_options` are the same thing: give one of them"
        )
    for name, value in (given or {}).items():
        _set(options, name, value)
    return options


def _set(options: Any, name: str, value: Any) -> None:
    """Set one of the user's options."""
    try:
        if "." in name:
            options.add_session_config_entry(name, str(value))
            return
        known = [n for n in dir(options) if isinstance(getattr(type(options), n, None), property)]
        if name not in known:
            raise UsageError(
                f"ONNX Runtime has no session option {name!r}; it has {', '.join(known)}, "
                "and config entries, which have a dot in their names"
            )
        # Those of an enumeration by their name, as "ORT_PARALLEL".
        members = getattr(type(getattr(options, name)), "__members__", None)
        setattr(options, name, members[value] if members and isinstance(value, str) else value)
    except (TypeError, KeyError, RuntimeError):
        raise UsageError(
            f"ONNX Runtime does not take {value!r} for its session option {name!r}"
        ) from None
