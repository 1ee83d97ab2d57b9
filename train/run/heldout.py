"""Held-out pictures during a run: the model in training, measured at the training size.

Knows: how the training forward becomes a predictor. Does not know: metrics, the loop.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from e2e_deploy.errors import DataError, E2EDeployError
from e2e_deploy.names import TaskName
from e2e_deploy.packages import require
from e2e_deploy.train.accuracy import Evaluation, Measurement, joined, spread_indices
from e2e_deploy.train.config.settings import EvalConfig
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.train.data.resize import STRIDE, crop, fit
from e2e_deploy.train.data.sample import Sample
from e2e_deploy.train.step.step import Stepper


class HeldOut:
    """The held-out split at the size it is measured at.

    Raises:
        DataError: as ``FolderDataset``.
        UsageError: the data set has no truth for the task.
    """

    def __init__(self, config: EvalConfig, task: TaskName) -> None:
        self.config = config
        self.dataset = FolderDataset(config.root, config.split, task=task, cache_gb=config.cache_gb)

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> Sample:
        """Sample ``index``, fitted to the size, or cut to a multiple of 8."""
        sample = self.dataset.read(index)
        if self.config.size is not None:
            return fit(sample, *self.config.size)
        height, width = (side // STRIDE * STRIDE for side in sample.valid.shape)
        return crop(sample, 0, 0, height, width)

    def measure(self, stepper: Stepper, should_stop: Callable[[], bool]) -> Evaluation | None:
        """Accuracy of the model as it is now, in the run's precision; the same in all processes, which share the work.

        None when ``should_stop`` gave it up, between two pictures of any process.

        Raises:
            DataError: a sample cannot be read and ``run.on_bad`` is stop, or none can be measured.
            E2EDeployError: the model gives NaN.
        """
        rank, world = stepper.accelerator.process_index, stepper.accelerator.num_processes
        mine = self._measure_share(stepper, rank, world, should_stop)
        # All exchange, also what failed: a process that left would be waited for.
        shares = require("accelerate", "train").utils.gather_object([mine])
        for share in shares:
            if isinstance(share, E2EDeployError):
                raise share
        if None in shares:
            return None
        evaluations = []
        for total, *others in zip(*shares, strict=True):
            for other in others:
                total.merge(other)
            evaluations.append(total.result())
        return evaluations[0] if len(evaluations) == 1 else joined(*evaluations)

    def _measure_share(
        self, stepper: Stepper, rank: int, world: int, should_stop: Callable[[], bool]
    ) -> list[Measurement] | E2EDeployError | None:
        spec, kinds = self.dataset.spec, stepper.forward.model.kinds
        range_m = (max(spec.min_m, 1e-5), spec.max_m)
        measured = [Measurement(kind.name, depth_range_m=range_m) for kind in kinds]
        if rank == 0:
            for each in measured:
                each.left_out.update(self.dataset.left_out)
        for index in spread_indices(len(self), self.config.num_images)[rank::world]:
            if should_stop():
                return None
            try:
                sample = self.read(index)
                results = results_of(stepper, sample.rgb)
                for each, result in zip(measured, results, strict=True):
                    each.add(index, sample, partial(_as_it_is, result))
            except DataError as error:
                if stepper.config.run.on_bad == "stop":
                    return error
                for each in measured:
                    each.left_out["unreadable"] += 1
            except E2EDeployError as error:
                return error
        return measured


def _as_it_is(
    result: npt.NDArray[np.float32], _frame: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    return result


def results_of(stepper: Stepper, frame: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
    """Every result of the model in training, [H, W] or [H, W, 3] float32 in its kind's range, of a frame.

    Vectors are not made unit length. The sides of the frame are multiples of the autoencoder's stride.
    """
    rgb = torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1)))[None]
    prediction = stepper.predict(rgb.to(stepper.device).float() / 127.5 - 1)[0].cpu()
    results, first = list[npt.NDArray[np.float32]](), 0
    for kind in stepper.forward.model.kinds:
        image = prediction[first : first + kind.channels].permute(1, 2, 0).numpy()
        first += kind.channels
        if kind.form != "vectors":
            image = (image + 1) / 2
        results.append(image[..., 0] if kind.channels == 1 else image)
    return results
