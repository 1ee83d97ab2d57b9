"""Time on a device: CUDA events on a GPU, the host's clock on a CPU; contenders in turn, on inputs that rotate.

Knows clocks and calls; knows nothing of models.
"""

import gc
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from e2e_deploy.names import Precision
from e2e_deploy.nvidia.hardware import cpu_name
from e2e_deploy.runtime.timing import summarise

Call = Callable[[Any], Any]


def in_words(error: BaseException) -> str:
    """An exception in one line, cut where a library dumps its insides."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}".rstrip(": ")


class Device:
    """Where a benchmark runs.

    Args:
        name: cuda or cpu.

    Attributes:
        dtype: what the contenders compute in: fp16 on a GPU; a CPU has no fast 16-bit arithmetic.
        clock: what the times come from.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_cuda = name == "cuda"
        self.precision: Precision = "fp16" if self.is_cuda else "fp32"
        self.dtype = torch.float16 if self.is_cuda else torch.float32
        self.clock = "CUDA events" if self.is_cuda else "host clock"

    def synchronise(self) -> None:
        """Wait for all that was queued."""
        if self.is_cuda:
            torch.cuda.synchronize()

    def mark(self) -> Any:
        """A point in the current stream."""
        if not self.is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's
        event.record()
        return event

    def between_ms(self, start: Any, end: Any) -> float:
        """Milliseconds between two marks that were passed."""
        return float(start.elapsed_time(end)) if self.is_cuda else 1000 * float(end - start)

    def time_ms(self, call: Call, value: Any) -> float:
        """One call on an idle device, from its start to its end there."""
        self.synchronise()
        start = self.mark()
        call(value)
        end = self.mark()
        self.synchronise()
        return self.between_ms(start, end)

    def reserved(self) -> int:
        """Bytes that torch holds on the GPU after it gave back what it does not need; 0 on a CPU."""
        gc.collect()
        if not self.is_cuda:
            return 0
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    def peak_of(self, call: Call, value: Any) -> int:
        """Bytes that a call needed on the GPU beyond what was held before it; 0 on a CPU."""
        if not self.is_cuda:
            call(value)
            return 0
        self.synchronise()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call(value)
        self.synchronise()
        return torch.cuda.max_memory_allocated() - before

    def facts(self) -> dict[str, Any]:
        """The GPU and its driver for a result file; the device alone on a CPU."""
        if not self.is_cuda:
            return {"type": "cpu", "name": cpu_name()}
        found = torch.cuda.get_device_properties(0)
        return {
            "type": "cuda",
            "name": found.name,
            "capability": f"sm{found.major}{found.minor}",
            "multiprocessors": found.multi_processor_count,
            "memory_gib": round(found.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]  # torch's
            **_ask_driver(),
        }


@contextmanager
def exact_and_tuned() -> Iterator[None]:
    """Within: fp32 without TF32, as references need it, and convolutions chosen by trial, for all contenders alike.

    Outside torch's own settings hold, which a user of the backends and of training has.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, cudnn.benchmark, matmul.allow_tf32
    cudnn.allow_tf32, cudnn.benchmark, matmul.allow_tf32 = False, True, False
    try:
        yield
    finally:
        cudnn.allow_tf32, cudnn.benchmark, matmul.allow_tf32 = before


def find_device() -> Device:
    """The GPU that torch sees, else the CPU."""
    return Device("cuda" if torch.cuda.is_available() else "cpu")


_QUERIES = ("driver_version", "clocks.sm", "clocks.mem", "power.limit", "temperature.gpu")


def _ask_driver() -> dict[str, str]:
    """What nvidia-smi reads, which changes nothing; empty where it is missing."""
    words = ["nvidia-smi", f"--query-gpu={','.join(_QUERIES)}", "--format=csv,noheader", "--id=0"]
    try:
        said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return {}
    values = (value.strip() for value in said.stdout.strip().split(","))
    return dict(zip((name.replace(".", "_") for name in _QUERIES), values, strict=False))


def in_turns(
    device: Device, calls: Mapping[str, Call], inputs: Sequence[Tensor], *, rounds: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Milliseconds of every call, one after the other in each round and backwards in every second one.

    Whatever else the machine does hits all of them, and none always follows the same one.

    Args:
        device: of the inputs.
        calls: by name; warm.
        inputs: taken in turn, so that no cache holds the one that comes.
        rounds: times that each is called.

    Returns:
        Milliseconds by name, and the errors of those that failed, which have no times.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    errors: dict[str, str] = {}
    for turn in range(rounds):
        value = inputs[turn % len(inputs)]
        for name in list(calls)[:: 1 if turn % 2 == 0 else -1]:
            if name in errors:
                continue
            try:
                times[name].append(device.time_ms(calls[name], value))
            except Exception as error:  # of any library; the others go on
                errors[name] = in_words(error)
    return {name: values for name, values in times.items() if name not in errors}, errors


def summary(times_ms: Sequence[float]) -> dict[str, float]:
    """Percentiles, and how far the medians of even and odd rounds differ: less than that is noise."""
    values = np.asarray(times_ms)
    median = float(np.median(values))
    found: dict[str, float] = dict(vars(summarise(values / 1000)))
    if len(values) > 1:
        halves = float(np.median(values[::2])), float(np.median(values[1::2]))
        found["noise_percent"] = 100 * abs(halves[0] - halves[1]) / median
    return found
