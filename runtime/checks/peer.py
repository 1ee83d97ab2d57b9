"""diffusers' own Marigold pipelines at one step from a zero latent, called as our engines are.

N: frames at once. H, W: of a frame.
"""

import copy
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from e2e_deploy.baselines.pipeline import DiffusersPipeline
from e2e_deploy.names import Precision
from e2e_deploy.nvidia.hardware import bf16_units
from e2e_deploy.packages import require
from e2e_deploy.runtime.backends.layout import Result

if TYPE_CHECKING:
    from e2e_deploy.model.checkpoint import Checkpoint


def peer_precision(precision: Precision, *, on_gpu: bool) -> Precision:
    """What diffusers computes in beside a bundle of this precision: the same where the device has units for it.

    A CPU has none for fp16 and PyTorch no int8 of ours: fp32 there, and fp16 for int8 on a GPU. bf16 on a CPU only
    where it multiplies bf16.
    """
    if on_gpu:
        return "fp16" if precision == "int8" else precision
    return "bf16" if precision == "bf16" and bf16_units() else "fp32"


class DiffusersPeer:
    """uint8 frames [H, W, 3] or [N, H, W, 3] on the host to depth [H, W] or normals [H, W, 3], float32 on the host.

    Args:
        checkpoint: what the pipeline loads.
        resolution: longest edge the network sees; 0 for the frame's own size.
        device: cpu or cuda:N.
        precision: what it computes in.

    Attributes:
        device: in words.
        precision: as given.

    Raises:
        UsageError: diffusers has no pipeline for this family and task.
        UnavailableError: diffusers is not installed, or PyTorch has no such device.
        CheckpointError: its weights are damaged or do not fit its configs.
        E2EDeployError: when called: the pipeline fails.
    """

    def __init__(
        self,
        checkpoint: "Checkpoint",
        resolution: int = 0,
        *,
        device: str = "cpu",
        precision: Precision = "fp32",
    ) -> None:
        # What a checkpoint says of its spacing is not to be trusted: at one step it may mean t = 1.
        self._own = DiffusersPipeline(
            checkpoint, device=device, precision=precision, spacing="trailing"
        )
        self._resolution, self._at = resolution, device
        self.precision, self.device = precision, self._own.device

    def processing_hw(self, frame_hw: tuple[int, int]) -> tuple[int, int]:
        """Size its network sees for frames of that size."""
        return self._own.processing_hw(frame_hw, self._resolution)

    def compiled(self) -> Self:
        """Itself with its three networks compiled by torch.compile, on the same weights; the first call compiles."""
        torch: Any = require("torch", "export")
        other, own = copy.copy(self), copy.copy(self._own)
        pipeline, vae = copy.copy(own.pipeline), copy.copy(own.pipeline.vae)
        vae._modules = dict(vae._modules)  # the copy shares it, and would give its parts to both
        for name in ("encoder", "decoder"):
            setattr(vae, name, torch.compile(getattr(vae, name), dynamic=False))
        pipeline.vae, pipeline.unet = vae, torch.compile(pipeline.unet, dynamic=False)
        own.pipeline, other._own = pipeline, own
        return other

    def __call__(self, frame: npt.NDArray[np.uint8]) -> Result:
        """The result at the frame's size."""
        torch: Any = require("torch", "export")
        frames = frame if frame.ndim == 4 else frame[None]
        stride = self._own.pipeline.vae_scale_factor
        seen_hw = self.processing_hw((frames.shape[1], frames.shape[2]))
        latents = torch.zeros(
            (len(frames), 4, *(side // stride for side in seen_hw)),
            dtype=self._own.pipeline.dtype,
            device=self._at,
        )
        result = self._own(
            frames,
            steps=1,
            resolution=self._resolution,
            latents=latents,
            batch_size=len(frames),
        )
        return result if frame.ndim == 4 else result[0]
