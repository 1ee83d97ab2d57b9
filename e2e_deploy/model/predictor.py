"""A checkpoint as a function from picture to result, in PyTorch float32: what every engine is measured against."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from e2e_deploy.errors import UnavailableError, UsageError
from e2e_deploy.frames import FramePlan
from e2e_deploy.model.checkpoint import Checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.model.single_step import FrameModel
from e2e_deploy.names import ResultKind, TaskName

MAX_SIZES = 8
"""Picture sizes whose steps are kept; those of a large photo are 50 MB of matrices."""


class Predictor:
    """Loads ``checkpoint`` and gives its result for pictures of any size.

    Args:
        checkpoint: opened.
        resolution: longest edge that the network sees, in pixels; 0 keeps a picture's own size, None takes the
            checkpoint's.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        CheckpointError: the weights are damaged.
        UnavailableError: there is no such device here.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, resolution: int | None = None, device: str = "auto"
    ) -> None:
        self._device = torch_device(device)
        self._resolution = checkpoint.resolution if resolution is None else resolution
        self._network = load_model(checkpoint)
        self._models: dict[FramePlan, FrameModel] = {}

    @property
    def device(self) -> str:
        """What it runs on."""
        return str(self._device)

    @property
    def outputs(self) -> tuple[ResultKind, ...]:
        """The kinds of its results, in order."""
        return tuple(kind.name for kind in self._network.kinds)

    @property
    def task(self) -> TaskName:
        """What it predicts."""
        return self._network.task

    def __call__(
        self, picture: npt.NDArray[np.uint8], *, resolution: int | None = None
    ) -> npt.NDArray[Any]:
        """uint8 RGB [H, W, 3] to the one result [H, W] or [H, W, 3], float32; UsageError where there are several.

        ``resolution`` is for this picture, instead of the one given when it was made.
        """
        if len(self.outputs) > 1:
            raise UsageError(f"it gives {' and '.join(self.outputs)}: use `results`")
        return next(iter(self.results(picture, resolution=resolution).values()))

    def results(
        self, picture: npt.NDArray[np.uint8], *, resolution: int | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """uint8 RGB [H, W, 3] to every result, float32 [H, W] or [H, W, 3], by the name of its output."""
        seen = self._resolution if resolution is None else resolution
        plan = self._network.plan((picture.shape[0], picture.shape[1]), seen)
        if plan not in self._models:
            if len(self._models) == MAX_SIZES:
                del self._models[next(iter(self._models))]
            self._models[plan] = FrameModel(self._network, plan, self.outputs).to(self._device)
        with torch.inference_mode():
            frame = torch.from_numpy(picture)[None].to(self._device)
            results = self._models[plan](frame)
        each = results if isinstance(results, tuple) else (results,)
        kinds = self._network.kinds
        return {kind.output: one[0].cpu().numpy() for kind, one in zip(kinds, each, strict=True)}


def torch_device(name: str) -> torch.device:
    """PyTorch's device called ``name``: auto, cpu, cuda or cuda:N.

    Raises:
        UsageError: an unknown name.
        UnavailableError: it is not here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"unknown device {name!r}; PyTorch's devices are auto, cpu, cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnavailableError('PyTorch sees no CUDA device here; use `device="cpu"`')
    return device
