"""Watches, while it runs, how far an engine is from PyTorch: on the stored frames first, then on every Nth live one.

The reference runs in a thread of its own and takes the newest sample when it is free, so it never delays a frame by
more than a copy. Where PyTorch or the checkpoint is missing, the stored frames are all that is compared, and that is
said; a checkpoint that the user named is an error.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.errors import CheckpointError, E2EDeployError, ParityError, UnavailableError
from e2e_deploy.kinds import Kind
from e2e_deploy.limits import LIMITS, Limit, Parity, measure_parity
from e2e_deploy.runtime.backends.layout import Outcome, Result, by_kind, changed
from e2e_deploy.runtime.engine import Engine, load
from e2e_deploy.runtime.lanes import Lane
from e2e_deploy.system.files import whole_file

Frame = npt.NDArray[np.uint8]
Reference = Callable[[Frame], Outcome]


def torch_reference(engine: Engine, bundle: Bundle | None = None) -> Reference:
    """The fp32 PyTorch model of an engine's bundle, for frames of its size.

    Args:
        engine: what is compared with it.
        bundle: the engine's, with a checkpoint of the user's; None is as the engine has it.

    Raises:
        UnavailableError: torch is not installed.
        CheckpointError: the checkpoint is not here.
    """
    reference = load(bundle or engine.bundle, backend="torch", frame_size=engine.frame_size)
    return lambda frame: result_of(reference, frame)


def result_of(engine: Engine, frame: Frame) -> Outcome:
    """The result of one frame, whatever the engine's batch is."""
    given: Outcome
    if engine.batch == 1:
        given = engine(frame)
        return given
    given = engine(np.repeat(frame[None], engine.batch, axis=0))
    first: Outcome = changed(engine.manifest.kinds, given, lambda kind, each: each[0])
    return first


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
        outside: comparisons outside the limit; each output is one.
        worst: the comparison with the largest relative error.
        last: the newest one of each output.
        saved: file with the worst live frame, its result and its reference.
        not_saved: why that file cannot be written; empty when it can.
        no_live: why live frames are not compared; empty when they are.
        failures: what was outside, in words, of the first such comparison.
    """

    stored: int = 0
    live: int = 0
    outside: int = 0
    worst: Parity | None = None
    last: dict[str, Parity] = field(default_factory=dict)
    saved: Path | None = None
    not_saved: str = ""
    no_live: str = ""
    failures: str = ""

    def words(self) -> str:
        """The newest comparisons for a status line."""
        if not self.last:
            return ""
        several = len(self.last) > 1
        told = [(f"{k} " if several else "") + _in_words(v) for k, v in self.last.items()]
        text = f"parity {'; '.join(told)}"
        return text + (f", {self.outside} OUTSIDE" if self.outside else "")


def _in_words(parity: Parity) -> str:
    if parity.abs_rel is not None and parity.share_within_2pct is not None:
        return f"AbsRel {parity.abs_rel:.1e}, {parity.share_within_2pct:.1%} within 2 %"
    if parity.mean_angle_deg is not None:
        return f"{parity.mean_angle_deg:.2f} deg"
    if parity.mean_abs is not None:
        return f"difference {parity.mean_abs:.1e}"
    return "NaN"


class ParityWatch:
    """Compares as a run's ``watch``. For one run.

    Args:
        every: compare each Nth frame, if the reference is free.
        strict: a comparison outside the limit ends the run with a ParityError.
        save_to: where the worst live frame goes (.npz with frame, result, reference; of several outputs each pair with
            its name).
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
        self._samples: Lane[tuple[Frame, Outcome]] = Lane(1, newest=True)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._count = 0

    def __call__(self, engine: Engine, frame: Frame, result: Outcome) -> None:
        """Compare the stored frames once; hand over every Nth live one.

        Raises:
            ParityError: strict, and something was outside its limit.
        """
        if self._thread is None:
            frames, references = engine.bundle.reference(engine.graph)
            for index, stored in enumerate(frames):
                each = [references[name][index] for name in engine.outputs]
                self._compare(engine, result_of(engine, stored), each)
                self.report.stored += 1
            self._thread = threading.Thread(
                target=self._run, args=(engine,), name="e2e-deploy parity", daemon=True
            )
            self._thread.start()
        self._judge()
        if self._count % self._every == 0:
            # The source may use its memory again, and steps may change the result where it lies.
            kept = changed(engine.manifest.kinds, result, lambda kind, each: each.copy())
            self._samples.put((frame.copy(), kept))
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

    def close(self) -> None:
        """End without the last sample, after an error; after ``finish`` this does nothing."""
        self._samples.close(discard=True)

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
                if engine.bundle.checkpoint is not None:  # the user named it
                    raise
                self.report.no_live = str(error)
                self._samples.close(discard=True)
                return
            while (sample := self._samples.get()) is not None:
                frame, result = sample
                given = by_kind(engine.manifest.kinds, reference(frame))
                expected = [each for _, each in given]
                self.report.live += 1
                if self._compare(engine, result, expected) and self._save_to is not None:
                    self._save(self._save_to, frame, engine.manifest.kinds, result, expected)
        except BaseException as error:
            self._error = error
            self._samples.close(discard=True)

    def _compare(self, engine: Engine, given: Outcome, expected: Sequence[Result]) -> bool:
        """Keep the comparison of every output; whether one is the worst so far."""
        report, worse = self.report, False
        pairs = by_kind(engine.manifest.kinds, given)
        for (kind, result), reference in zip(pairs, expected, strict=True):
            parity = measure_parity(kind.name, result, reference)
            report.last[kind.output] = parity
            if broken := parity.breaks(limit_of(engine)):
                report.outside += 1
                of = f"{kind.output}: " if len(expected) > 1 else ""
                report.failures = report.failures or of + "; ".join(broken)
            # NaN is worst
            if report.worst is None or not parity.relative <= report.worst.relative:
                report.worst, worse = parity, True
        return worse

    def _save(
        self,
        path: Path,
        frame: Frame,
        kinds: Sequence[Kind],
        given: Outcome,
        expected: Sequence[Result],
    ) -> None:
        arrays: dict[str, npt.NDArray[Any]] = {"frame": frame}
        for (kind, result), reference in zip(by_kind(kinds, given), expected, strict=True):
            of = f"_{kind.output}" if len(kinds) > 1 else ""
            arrays |= {f"result{of}": result, f"reference{of}": reference}
        try:
            with whole_file(path) as partial, open(partial, "wb") as stream:
                np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
        except E2EDeployError as error:  # the numbers still count
            self.report.not_saved = str(error)
            return
        self.report.saved = path
