"""The stage with the engines: an actor that loads each bundle once and takes shard after shard.

Frames go through ``Inference``, the stage of ``run``, so that a picture has the same result here and there.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.names import BackendChoice
from e2e_deploy.runtime.backends import ENTRIES
from e2e_deploy.runtime.backends.layout import Outcome
from e2e_deploy.runtime.bulk.parcel import (
    Done,
    Failure,
    Parcel,
    Picture,
    Table,
    from_table,
    to_table,
)
from e2e_deploy.runtime.engine import Engine, load
from e2e_deploy.runtime.fit import Fit
from e2e_deploy.runtime.inference import Inference, Item, Loading
from e2e_deploy.runtime.lanes import Lane
from e2e_deploy.runtime.report import RunReport
from e2e_deploy.runtime.sources.picture_source import PictureSource
from e2e_deploy.runtime.sources.source import SourceFrame

ENGINE = "engine"


@dataclass(frozen=True)
class EngineOrder:
    """What one engine is loaded from.

    Attributes:
        bundle: its folder, on every machine that has a worker.
        frame_size: (H, W) of its graph.
    """

    bundle: str
    frame_size: tuple[int, int]


class EngineWorker:
    """Engines of one worker; called with rows of pictures, it gives rows of results.

    Engines that cannot be loaded are an error of the first call: of what an actor raises where it is made, Ray keeps
    the traceback and not the error.

    Args:
        orders: one a bundle, each applied to every picture.
        backend: as ``load``.
        device: cpu or cuda, which Ray has counted for it.
        threads: of a CPU; None on a GPU.
    """

    def __init__(
        self,
        orders: Sequence[EngineOrder],
        backend: BackendChoice,
        device: str,
        threads: int | None,
    ) -> None:
        self._engines: list[Engine] = []
        self._refusal: E2EDeployError | None = None
        # One that has no threads to bound says better itself what it needs.
        bounded = backend == "auto" or "threads" in ENTRIES[backend].options
        try:
            for order in orders:
                engine = load(
                    order.bundle,
                    backend=backend,
                    device=device,
                    frame_size=order.frame_size,
                    threads=threads if bounded else None,
                )
                self._engines.append(engine)
        except E2EDeployError as error:
            self._refusal = error
        self._untold = [_choice(engine) for engine in self._engines]

    def __call__(self, table: Table) -> Table:
        """Rows of pictures as rows of results at the engines' frame sizes.

        Raises:
            E2EDeployError: as ``load``, or the backend fails.
        """
        if self._refusal is not None:
            raise self._refusal
        parcels = from_table(table)
        if parcels:
            parcels[0].notes[:0] = self._untold
            self._untold = []
        return to_table([self._worked(parcel) for parcel in parcels])

    def _worked(self, parcel: Parcel) -> Parcel:
        start = time.perf_counter()
        fitting = [picture for picture in parcel.pictures if self._fits(picture, parcel)]
        outcomes = [_results(engine, fitting) for engine in self._engines] if fitting else []
        parcel.pictures = []
        parcel.done = [
            Done(p.item, p.moment, (p.rgb.shape[0], p.rgb.shape[1]), list(each))
            for p, each in zip(fitting, zip(*outcomes, strict=True), strict=True)
        ]
        parcel.seconds[ENGINE] = time.perf_counter() - start
        return parcel

    def _fits(self, picture: Picture, parcel: Parcel) -> bool:
        """Whether every engine can take it; if not, that is a failure."""
        try:
            for engine in self._engines:
                Fit((picture.rgb.shape[0], picture.rgb.shape[1]), engine.frame_size)
        except UsageError as error:
            shown = picture.item.shown
            parcel.failures.append(Failure(picture.item.index, shown, f"{shown}: {error}"))
            return False
        return True


def _choice(engine: Engine) -> str:
    """What runs a bundle and why, for the report; the same of workers on machines of one kind."""
    return f"{' and '.join(engine.outputs)}: {engine.describe()}"


def _results(engine: Engine, pictures: list[Picture]) -> list[Outcome]:
    """Of each picture what the engine gives of it, in order, at the engine's size."""
    frames: Lane[SourceFrame] = Lane(len(pictures), newest=False)
    results: Lane[Item] = Lane(len(pictures), newest=False)
    loading = Loading(lambda hw: engine, [engine.frame_size], keep=True)
    inference = Inference(
        frames, results, loading, RunReport(PictureSource("a shard", [])), None, None
    )
    for picture in pictures:
        item = picture.item
        frames.put(SourceFrame(picture.rgb, item.index, None, item.name))
    frames.close()
    try:
        inference.run()
    finally:
        inference.close()
    results.close()
    outcomes = []
    while (item_done := results.get()) is not None:
        outcomes.append(item_done.result)
    return outcomes
