"""Held-out pictures during a run: the model in training, measured at the training size.

Knows: how the training forward becomes a predictor. Does not know: metrics, the loop.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from e2e_deploy.errors import DataError, E2EDeployError
from e2e_deploy.names import TaskName
from e2e_deploy.packages import require
from e2e_deploy.train.accuracy import Evaluation, Measurement, Predict, spread_indices
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.train.data.resize import STRIDE, crop, fit
from e2e_deploy.train.data.sample import Sample
from e2e_deploy.train.settings import EvalConfig, TrainConfig
from e2e_deploy.train.step.step import Stepper


class HeldOut:
    """The held-out split at the size it is measured at.

    Raises:
        DataError: as ``FolderDataset``.
        UsageError: the data set has no truth for the task.
    """

    def __init__(self, config: EvalConfig, task: TaskName) -> None:
        self.config = config
        self.dataset = FolderDataset(config.root, config.split, task=task)

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

        def predict(frame: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
            rgb = torch.from_numpy(frame).permute(2, 0, 1)[None].contiguous().to(stepper.device)
            with stepper.measuring():
                result = stepper.forward(rgb.float() / 127.5 - 1, None)[0].float().cpu()
            array: npt.NDArray[Any] = result.permute(1, 2, 0).numpy()
            return array[..., 0] if stepper.config.task == "depth" else array

        rank, world = stepper.accelerator.process_index, stepper.accelerator.num_processes
        config = stepper.config
        mine = self._measure_share(config, predict, rank, world, should_stop)
        # All exchange, also what failed: a process that left would be waited for.
        shares = require("accelerate", "train").utils.gather_object([mine])
        for share in shares:
            if isinstance(share, E2EDeployError):
                raise share
        if None in shares:
            return None
        total, *others = shares
        for share in others:
            total.merge(share)
        result: Evaluation = total.result()
        return result

    def _measure_share(
        self,
        config: TrainConfig,
        predict: Predict,
        rank: int,
        world: int,
        should_stop: Callable[[], bool],
    ) -> Measurement | E2EDeployError | None:
        spec = self.dataset.spec
        measured = Measurement(config.task, depth_range_m=(max(spec.min_m, 1e-5), spec.max_m))
        if rank == 0:
            measured.left_out.update(self.dataset.left_out)
        for index in spread_indices(len(self), self.config.num_images)[rank::world]:
            if should_stop():
                return None
            try:
                measured.add(index, self.read(index), predict)
            except DataError as error:
                if config.run.on_bad == "stop":
                    return error
                measured.left_out["unreadable"] += 1
            except E2EDeployError as error:
                return error
        return measured
