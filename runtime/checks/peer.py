"""diffusers' own Marigold pipelines at one step from a zero latent, called as our engines are.

N: frames at once. H, W: of a frame.
"""

import copy
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import CheckpointError, E2EDeployError, UnavailableError, UsageError, failed
from e2e_deploy.frames import plan_frame
from e2e_deploy.names import FamilyName, Precision, TaskName
from e2e_deploy.nvidia.hardware import bf16_units, cpu_name
from e2e_deploy.packages import quiet, require
from e2e_deploy.runtime.backends.backend import Result
from e2e_deploy.system.text import clean

if TYPE_CHECKING:
    from e2e_deploy.model.checkpoint import Checkpoint

PIPELINES: dict[tuple[FamilyName, TaskName], str] = {
    ("e2e-ft", "depth"): "MarigoldDepthPipeline",
    ("e2e-ft", "normals"): "MarigoldNormalsPipeline",
    ("marigold", "depth"): "MarigoldDepthPipeline",
    ("marigold", "normals"): "MarigoldNormalsPipeline",
}
"""Of diffusers, for the families that it runs."""

_BARS = ("diffusers", "transformers")
_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def peer_precision(precision: Precision, *, on_gpu: bool) -> Precision:
    """What diffusers computes in beside a bundle of this precision: the same where the device has units for it.

    A CPU has none for fp16 and PyTorch no int8 of ours: fp32 there, and fp16 for int8 on a GPU. bf16 on a CPU only
    where it multiplies bf16.
    """
    if on_gpu:
        return "fp16" if precision == "int8" else precision
    return "bf16" if precision == "bf16" and bf16_units() else "fp32"


@contextmanager
def _without_bars() -> Iterator[None]:
    """Loading draws bars of diffusers and of transformers unless both are told not to."""
    logs = [importlib.import_module(f"{name}.utils.logging") for name in _BARS]
    shown = [log.is_progress_bar_enabled() for log in logs]
    for log in logs:
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, was_shown in zip(logs, shown, strict=True):
            if was_shown:
                log.enable_progress_bar()


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
        CheckpointError: diffusers does not load it.
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
        family, task = checkpoint.identity.family, checkpoint.identity.task
        if (family.name, task) not in PIPELINES:
            raise UsageError(
                f"diffusers has no pipeline for {task} of the family {family.name}; compare with a backend instead"
            )
        if checkpoint.unet.get("in_channels") == checkpoint.unet.get("out_channels"):
            raise UsageError(
                "diffusers' pipelines give the network the latents of picture and noise, and this one takes the "
                "picture's alone; compare with a backend instead"
            )
        self._torch: Any = require("torch", "export")
        diffusers: Any = require("diffusers", "export")
        if device != "cpu" and not self._torch.cuda.is_available():
            raise UnavailableError(
                f"diffusers would run on {device}, and this PyTorch ({self._torch.__version__}) sees no GPU: "
                "install a build of PyTorch for CUDA"
            )
        names = [file.name for weights in checkpoint.weights.values() for file in weights.files]
        try:
            with quiet("diffusers"), _without_bars():
                pipeline: Any = getattr(diffusers, PIPELINES[family.name, task]).from_pretrained(
                    checkpoint.path,
                    torch_dtype=getattr(self._torch, _DTYPES[precision]),
                    variant="fp16" if any(".fp16." in name for name in names) else None,
                    use_safetensors=True,
                    local_files_only=True,
                )
                # What a checkpoint says of its spacing is not to be trusted: at one step it may mean t = 1.
                pipeline.scheduler = diffusers.DDIMScheduler.from_config(
                    pipeline.scheduler.config, timestep_spacing="trailing"
                )
                pipeline = pipeline.to(device)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
            raise failed(
                f"diffusers does not load {clean(checkpoint.id, 200)}", error, CheckpointError
            ) from error
        pipeline.set_progress_bar_config(disable=True)
        self._pipeline = pipeline
        self._task, self._resolution = task, resolution
        self._x_sign = -1.0 if task == "normals" and family.normals_x_left else 1.0
        self._at = device
        self.precision = precision
        self.device = (
            cpu_name() if device == "cpu" else str(self._torch.cuda.get_device_name(device))
        )

    def processing_hw(self, frame_hw: tuple[int, int]) -> tuple[int, int]:
        """Size its network sees for frames of that size."""
        stride = self._pipeline.vae_scale_factor
        return plan_frame(frame_hw, self._resolution, stride).padded_hw

    def compiled(self) -> Self:
        """Itself with its three networks compiled by torch.compile, on the same weights; the first call compiles."""
        torch, other = self._torch, copy.copy(self)
        pipeline, vae = copy.copy(self._pipeline), copy.copy(self._pipeline.vae)
        vae._modules = dict(vae._modules)  # the copy shares it, and would give its parts to both
        for name in ("encoder", "decoder"):
            setattr(vae, name, torch.compile(getattr(vae, name), dynamic=False))
        pipeline.vae, pipeline.unet = vae, torch.compile(pipeline.unet, dynamic=False)
        other._pipeline = pipeline
        return other

    def __call__(self, frame: npt.NDArray[np.uint8]) -> Result:
        """The result at the frame's size."""
        try:
            return self._result(frame)
        except RuntimeError as error:
            raise failed("diffusers' pipeline fails", error, E2EDeployError) from error

    def _result(self, frame: npt.NDArray[np.uint8]) -> Result:
        torch, stride = self._torch, self._pipeline.vae_scale_factor
        frames = frame if frame.ndim == 4 else frame[None]
        seen_hw = self.processing_hw((frames.shape[1], frames.shape[2]))
        dtype = self._pipeline.dtype
        # Copied: PyTorch warns about memory that may not be written to. Contiguous for the same reason as in
        # FrameModel.to_network: an exact peer.
        on_device = torch.from_numpy(np.array(frames)).to(self._at)
        rgb_N3HW = on_device.permute(0, 3, 1, 2).contiguous().to(dtype) / 255
        latents = torch.zeros(
            len(frames), 4, *(side // stride for side in seen_hw), dtype=dtype, device=self._at
        )
        # As fast as it can be at the accuracy of the bundle's precision: TF32 has fewer bits than fp32.
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False)
        with quiet("diffusers"), exact:
            prediction: Result = self._pipeline(
                rgb_N3HW,
                num_inference_steps=1,
                processing_resolution=self._resolution,
                latents=latents,
                batch_size=len(frames),
                output_type="np",
            ).prediction
        result = prediction[..., 0] if self._task == "depth" else prediction
        if self._x_sign < 0:
            result = result * np.array([-1.0, 1.0, 1.0], dtype=np.float32)
        return result if frame.ndim == 4 else result[0]
