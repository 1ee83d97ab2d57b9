"""Watches, while it runs, how far an engine is from PyTorch: on the stored frames first, then on every Nth live one.

The reference runs in a thread of its own and takes the newest sample when it is free, so it never delays a frame by
more than a copy. Where PyTorch or the checkpoint is missing, the stored frames are all that is compared, and that is
said.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import CheckpointError, E2EDeployError, ParityError, UnavailableError
from e2e_deploy.limits import LIMITS, Limit, Parity, measure_parity
from e2e_deploy.runtime.backends.backend import Result
from e2e_deploy.runtime.engine import Engine, load
from e2e_deploy.runtime.lanes import Lane
from e2e_deploy.system.files import whole_file

Frame = npt.NDArray[np.uint8]
Reference = Callable[[Frame], Result]


def torch_reference(engine: Engine) -> Reference:
    """The fp32 PyTorch model of an engine's bundle, for frames of its size.

    Raises:
        UnavailableError: torch is not installed.
        CheckpointError: the checkpoint is not here.
    """
    reference = load(engine.bundle, backend="torch", frame_size=engine.frame_size)
    return lambda frame: result_of(reference, frame)


def result_of(engine: Engine, frame: Frame) -> Result:
    """The result of one frame, whatever the engine's batch is."""
    if engine.batch == 1:
        return engine(frame)
    result: Result = engine(np.repeat(frame[None], engine.batch, axis=0))[0]
    return result


def limit_of(engine: Engine) -> Limit:
    """The limit of an engine's backend and precision; the torch backend is fp32 whatever the bundle is."""
    name = engine.backend.name
    return LIMITS[name, "fp32" if name == "torch" else engine.manifest.precision]


@dataclass
class ParityReport:
    """What was compared.

    Attributes:
        stored: stored frames that were compared at the start.
        live: live frames that were compared.
        outside: comparisons outside the limit.
        worst: the comparison with the largest relative error.
        last: the newest one.
        saved: file with the worst live frame, its result and its reference.
        not_saved: why that file cannot be written; empty when it can.
        no_live: why live frames are not compared; empty when they are.
        failures: what was outside, in words, of the first such comparison.
    """

    stored: int = 0
    live: int = 0
    outside: int = 0
    worst: Parity | None = None
    last: Parity | None = None
    saved: Path | None = None
    not_saved: str = ""
    no_live: str = ""
    failures: str = ""

    def words(self) -> str:
        """The newest comparison for a status line."""
        last = self.last
        if last is None:
            return ""
        if last.abs_rel is not None and last.share_within_2pct is not None:
            text = f"parity AbsRel {last.abs_rel:.1e}, {last.share_within_2pct:.1%} within 2 %"
        elif last.mean_angle_deg is not None:
            text = f"parity {last.mean_angle_deg:.2f} deg"
        else:
            text = "parity: NaN"
        return text + (f", {self.outside} OUTSIDE" if self.outside else "")


class ParityWatch:
    """Compares as a run's ``watch``. For one run.

    Args:
        every: compare each Nth frame, if the reference is free.
        strict: a comparison outside the limit ends the run with a ParityError.
        save_to: where the worst live frame goes (.npz with frame, result, reference).
        load: engine -> its reference; called in the watch's thread.

    Attributes:
        report: what was compared so far.
    """

    def __init__(
        self,
        every: int,
        *,
        strict: bool = False,
        save_to: Path | None = None,
        load: Callable[[Engine], Reference] = torch_reference,
    ) -> None:
        self.report = ParityReport()
        self._every, self._strict = every, strict
        self._save_to, self._load = save_to, load
        self._samples: Lane[tuple[Frame, Result]] = Lane(1, newest=True)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._count = 0

    def __call__(self, engine: Engine, frame: Frame, result: Result) -> None:
        """Compare the stored frames once; hand over every Nth live one.

        Raises:
            ParityError: strict, and something was outside its limit.
        """
        if self._thread is None:
            frames, references = engine.bundle.reference(engine.graph)
            for stored, reference in zip(frames, references, strict=True):
                self._compare(engine, result_of(engine, stored), reference)
                self.report.stored += 1
            self._thread = threading.Thread(
                target=self._run, args=(engine,), name="e2e-deploy parity", daemon=True
            )
            self._thread.start()
        self._judge()
        if self._count % self._every == 0:
            self._samples.put((frame.copy(), result))  # the source may use its memory again
        self._count += 1

    def finish(self) -> ParityReport:
        """Wait for the last sample and return the report.

        Raises:
            ParityError: strict, and something was outside its limit.
        """
        self._samples.close()
        if self._thread is not None:
            self._thread.join()
        self._judge()
        return self.report

    def _judge(self) -> None:
        if self._error is not None:
            raise self._error
        if self._strict and self.report.failures:
            raise ParityError(
                f"the engine is outside its limit, after {self.report.stored} stored and {self.report.live} live "
                f"comparisons: {self.report.failures}"
            )

    def _run(self, engine: Engine) -> None:
        try:
            try:
                reference = self._load(engine)
            except (UnavailableError, CheckpointError) as error:
                self.report.no_live = str(error)
                self._samples.close(discard=True)
                return
            while (sample := self._samples.get()) is not None:
                frame, result = sample
                expected = reference(frame)
                self.report.live += 1
                if self._compare(engine, result, expected) and self._save_to is not None:
                    self._save(self._save_to, frame, result, expected)
        except BaseException as error:
            self._error = error
            self._samples.close(discard=True)

    def _compare(self, engine: Engine, result: Result, expected: Result) -> bool:
        """Keep the comparison; whether it is the worst so far."""
        report = self.report
        parity = measure_parity(engine.manifest.outputs[0], result, expected)
        report.last = parity
        if broken := parity.breaks(limit_of(engine)):
            report.outside += 1
            report.failures = report.failures or "; ".join(broken)
        worse = report.worst is None or not parity.relative <= report.worst.relative  # NaN is worst
        if worse:
            report.worst = parity
        return worse

    def _save(self, path: Path, frame: Frame, result: Result, expected: Result) -> None:
        try:
            with whole_file(path) as partial, open(partial, "wb") as stream:
                np.savez_compressed(stream, frame=frame, result=result, reference=expected)
        except E2EDeployError as error:  # the numbers still count
            self.report.not_saved = str(error)
            return
        self.report.saved = path
