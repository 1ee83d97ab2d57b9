"""What a running training tells people: progress, log lines, TensorBoard.

On a terminal a live progress bar, in a pipe plain lines, both on stderr; ``<out>/log.jsonl`` for
machines; TensorBoard scalars and pictures in ``<out>/logs``. Knows no model.
"""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.packages import require
from e2e_deploy.progress import Count, duration
from e2e_deploy.system.files import open_regular, whole_file
from e2e_deploy.system.json_files import to_json
from e2e_deploy.train.step.step_report import StepReport

_SMOOTHING = 0.9


class Reporter:
    """Tells about the steps of one run; use as a context manager.

    Args:
        out: the run's folder.
        steps: of the whole run.
        first_step: steps done before; what the log says about later ones is dropped, they are redone.
        log_every: steps between lines.
        enabled: False on all processes but the first: then nothing is told.

    Attributes:
        earlier: what the log has of the steps before, as it was written; empty where nothing is told.
    """

    def __init__(
        self, out: Path, *, steps: int, first_step: int, log_every: int, enabled: bool
    ) -> None:
        self.enabled = enabled
        self._steps = steps
        self._log_every = log_every
        self._images_per_s = 0.0
        self._num_timed = 0
        self.earlier = list[dict[str, Any]]()
        self._last_time = time.perf_counter()
        if not enabled:
            return
        self._count = Count("training", first=first_step, tenths=False)
        self._out, self._log, self._logs = out, out / "log.jsonl", out / "logs"
        self.earlier = _forget_after(self._log, first_step)
        tensorboard = require("torch.utils.tensorboard", "train")
        with _said(self._out):
            self._writer = tensorboard.SummaryWriter(str(self._logs), purge_step=first_step + 1)

    def __enter__(self) -> "Reporter":
        if self.enabled:
            self._other_threads = threading.excepthook
            threading.excepthook = self._on_thread_error
            self._count.__enter__()
        return self

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        if self.enabled:
            self._count.__exit__()
            try:
                with _said(self._out):
                    self._writer.close()
            except E2EDeployError:
                if error is None:
                    raise
            finally:
                threading.excepthook = self._other_threads

    def _on_thread_error(self, thrown: threading.ExceptHookArgs) -> None:
        """Keep TensorBoard's writing thread from printing what its next call raises again, to be said once."""
        if not isinstance(thrown.exc_value, OSError):
            self._other_threads(thrown)

    def say(self, text: str) -> None:
        """One line for people."""
        if self.enabled:
            self._count.say(text)

    def step(self, report: StepReport) -> None:
        """Tell about a finished step."""
        if not self.enabled:
            return
        now = time.perf_counter()
        speed = report.num_images / max(now - self._last_time, 1e-9)
        self._last_time = now
        # The first step pays for starting; it is shown and then forgotten.
        weight = 1.0 if self._num_timed < 2 else 1 - _SMOOTHING
        self._images_per_s += weight * (speed - self._images_per_s)
        self._num_timed += 1
        text = (
            f"{report}  lr {report.lr:.2e}  {self._images_per_s:.1f} images/s  "
            f"{_memory_gib():.1f} GiB"
        )
        self._count(report.step, self._steps, text)
        if report.skipped:
            self.say(f"step {report.step} skipped: loss or gradient is NaN or infinite")
        if report.step % self._log_every and report.step != self._steps:
            return
        if not self._count.on_terminal:
            left = (self._steps - report.step) * report.num_images / self._images_per_s
            self.say(f"step {report.step}/{self._steps}  {text}  {duration(left)} left")
        entry = asdict(report) | {"images_per_s": round(self._images_per_s, 3)}
        if not report.terms:
            del entry["terms"]
        self._write_log(entry)
        values = {"lr": report.lr, "grad_norm": report.grad_norm, "direction": report.direction}
        values |= {"images_per_s": self._images_per_s, "degenerate": report.num_degenerate}
        values |= {"negative": report.num_negative, "flat": report.num_flat}
        values |= {f"terms/{name}": value for name, value in report.terms.items()}
        values |= {} if report.loss is None else {"loss": report.loss}
        self.scalars(report.step, values)

    def evaluation(
        self, step: int, metrics: Mapping[str, float], problem: str | None = None
    ) -> None:
        """Tell about held-out pictures, and what makes their numbers worthless."""
        if not self.enabled:
            return
        self._last_time = time.perf_counter()  # the next step's speed leaves the evaluation out
        self._write_log({"step": step, "evaluation": metrics, "problem": problem})
        self.scalars(step, {f"eval/{name}": value for name, value in metrics.items()})
        names = [*list(metrics)[:4], *(name for name in metrics if name == "negative_scale")]
        shown = "  ".join(f"{name} {metrics[name]:.4f}" for name in names)
        self.say(f"step {step}  held-out: {shown}")
        if problem:
            self.say(f"step {step}  held-out: {problem}")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Numbers into TensorBoard."""
        with _said(self._out):
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def panel(self, step: int, picture_HW3: npt.NDArray[np.uint8]) -> None:
        """A picture into TensorBoard."""
        if self.enabled:
            title = "rgb | target | prediction"
            with _said(self._out):
                self._writer.add_image(title, picture_HW3, step, dataformats="HWC")

    def _write_log(self, entry: dict[str, Any]) -> None:
        with _said(self._out), self._log.open("a", encoding="utf-8") as file:
            file.write(to_json(entry) + "\n")


@contextmanager
def _said(out: Path) -> Iterator[None]:
    """Name the files and the way on when writing one fails; TensorBoard's thread tells it a step late."""
    try:
        yield
    except OSError as error:
        raise E2EDeployError(
            f"{out / 'log.jsonl'} or {out / 'logs'} could not be written: {error.strerror or error}; free space and "
            "run it again to go on from the newest checkpoint"
        ) from error


def _forget_after(log: Path, step: int) -> list[dict[str, Any]]:
    """Keep the whole lines of ``log`` up to ``step``, for a kill may have torn the last; gives what they say."""
    if not log.exists():
        return []
    try:
        with open_regular(log) as file:
            whole = file.read().decode().rpartition("\n")[0].splitlines()
        kept = [(line, e) for line in whole if (e := json.loads(line))["step"] <= step]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{log} is not the log of a run ({error}): move it away, or name another run.out"
        ) from None
    with whole_file(log) as partial:
        partial.write_text("".join(line + "\n" for line, _ in kept), encoding="utf-8")
    return [entry for _, entry in kept]


def _memory_gib() -> float:
    """Peak of the GPU, or what the process holds now on a machine without one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return float(require("psutil", "train").Process().memory_info().rss) / 2**30
