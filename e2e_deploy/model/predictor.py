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
from e2e_deploy.names import TaskName
from e2e_deploy.tasks import get_task


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
    def task(self) -> TaskName:
        """What it predicts."""
        return get_task(self._network.task).name

    def __call__(
        self, picture: npt.NDArray[np.uint8], *, resolution: int | None = None
    ) -> npt.NDArray[Any]:
        """uint8 RGB [H, W, 3] to depth [H, W] in [0, 1] or unit normals [H, W, 3], float32.

        ``resolution`` is for this picture, instead of the one given when it was made.
        """
        seen = self._resolution if resolution is None else resolution
        plan = self._network.plan((picture.shape[0], picture.shape[1]), seen)
        if plan not in self._models:
            self._models[plan] = FrameModel(self._network, plan, self.task).to(self._device)
        with torch.inference_mode():
            frame = torch.from_numpy(picture)[None].to(self._device)
            result: npt.NDArray[Any] = self._models[plan](frame)[0].cpu().numpy()
        return result


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
