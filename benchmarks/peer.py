"""diffusers' own Marigold pipelines at one step from a zero latent, called as our engines are."""

import warnings
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

from e2e_deploy.frames import plan_frame

PIPELINES = {
    "depth": diffusers.MarigoldDepthPipeline,
    "normals": diffusers.MarigoldNormalsPipeline,
}


class Peer:
    """Frame uint8 [H, W, 3] to depth [H, W] or normals [H, W, 3], float32 on the CPU.

    Args:
        folder: of a checkpoint that diffusers loads.
        task: depth or normals.
        resolution: longest edge the network sees; 0 for the frame's own size.
    """

    def __init__(self, folder: Path, task: str, resolution: int = 0) -> None:
        warnings.simplefilter("ignore")
        diffusers.utils.logging.set_verbosity_error()
        diffusers.utils.logging.disable_progress_bar()
        self._pipeline: Any = PIPELINES[task].from_pretrained(folder)
        self._pipeline.set_progress_bar_config(disable=True)
        self._task, self._resolution = task, resolution

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """The result at the frame's size."""
        stride = self._pipeline.vae_scale_factor
        seen_hw = plan_frame(frame.shape[:2], self._resolution, stride).padded_hw
        prediction = self._pipeline(
            # contiguous for the same reason as in FrameModel.to_network: an exact peer
            torch.from_numpy(frame).permute(2, 0, 1)[None].contiguous().float() / 255,
            num_inference_steps=1,
            processing_resolution=self._resolution,
            latents=torch.zeros(1, 4, *(side // stride for side in seen_hw)),
            output_type="np",
        ).prediction[0]
        return prediction[..., 0] if self._task == "depth" else prediction
