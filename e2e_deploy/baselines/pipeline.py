"""diffusers' own pipeline of a checkpoint, with frames in and results in our axes out. No torch of its own.

N: frames at once. H, W: of a frame.
"""

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import (
    E2EDeployError,
    UnavailableError,
    UsageError,
    failed,
)
from e2e_deploy.frames import plan_frame
from e2e_deploy.names import FamilyName, Precision, Spacing, TaskName
from e2e_deploy.nvidia.hardware import cpu_name
from e2e_deploy.packages import quiet, require
from e2e_deploy.system.text import clean

if TYPE_CHECKING:
    from e2e_deploy.model.checkpoint import Checkpoint

PIPELINES: dict[tuple[FamilyName, TaskName], str] = {
    ("e2e-ft", "depth"): "MarigoldDepthPipeline",
    ("e2e-ft", "normals"): "MarigoldNormalsPipeline",
    ("marigold", "depth"): "MarigoldDepthPipeline",
    ("marigold", "normals"): "MarigoldNormalsPipeline",
    ("lcm", "depth"): "MarigoldDepthPipeline",
    ("lcm", "normals"): "MarigoldNormalsPipeline",
}
"""Of diffusers, for the families that it runs."""

_OPTIONS = (
    *("scale_invariant", "shift_invariant", "use_full_z_range"),
    *("default_denoising_steps", "default_processing_resolution"),
)
"""Of diffusers' pipelines, as model_index.json has them."""
_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


class DiffusersPipeline:
    """uint8 frames [N, H, W, 3] on the host to depth [N, H, W] or normals [N, H, W, 3], float32 on the host.

    Args:
        checkpoint: what it loads.
        device: cpu or cuda:N.
        precision: what it computes in.
        spacing: of DDIM's timesteps; None for what the checkpoint's scheduler says. An LCMScheduler has its own.

    Attributes:
        pipeline: diffusers' object.
        device: in words.
        precision: as given.

    Raises:
        UsageError: diffusers has no pipeline for this family and task, or for a network that takes no noise.
        UnavailableError: diffusers is not installed, or PyTorch has no such device.
        CheckpointError: its weights are damaged or do not fit its configs.
    """

    def __init__(
        self,
        checkpoint: "Checkpoint",
        *,
        device: str = "cpu",
        precision: Precision = "fp32",
        spacing: Spacing | None = None,
    ) -> None:
        family, task = checkpoint.identity.family, checkpoint.identity.task
        self._class = _class_for(checkpoint)
        self._torch: Any = require("torch", "export")
        diffusers: Any = require("diffusers", "export")
        if device != "cpu" and not self._torch.cuda.is_available():
            raise UnavailableError(
                f"diffusers would run on {device}, and this PyTorch ({self._torch.__version__}) sees no GPU: "
                "install a build of PyTorch for CUDA"
            )
        pipeline = _put_together(checkpoint, getattr(diffusers, self._class), spacing)
        try:
            # It warns of modules to be kept in float32 where there are none.
            with quiet("diffusers"):
                pipeline = pipeline.to(device, getattr(self._torch, _DTYPES[precision]))
        except RuntimeError as error:
            raise failed(f"diffusers does not get onto {device}", error, UnavailableError) from None
        pipeline.set_progress_bar_config(disable=True)
        self.pipeline = pipeline
        self._version = str(diffusers.__version__)
        self._task: TaskName = task
        self._signs = family.normals_signs
        self._at = device
        self.precision = precision
        self.device = (
            cpu_name() if device == "cpu" else str(self._torch.cuda.get_device_name(device))
        )

    def describe(self) -> str:
        """What it is, its scheduler included: diffusers 0.42.1, MarigoldDepthPipeline with DDIMScheduler."""
        scheduler = type(self.pipeline.scheduler).__name__
        return f"diffusers {self._version}, {self._class} with {scheduler}"

    @property
    def spacing(self) -> str | None:
        """Of the scheduler's timesteps; None where it knows no such word."""
        found = self.pipeline.scheduler.config.get("timestep_spacing")
        return (
            None
            if found is None or type(self.pipeline.scheduler).__name__ == "LCMScheduler"
            else str(found)
        )

    def timesteps(self, steps: int) -> list[int]:
        """Where the scheduler puts ``steps`` steps, the noisiest first.

        Raises:
            UsageError: it cannot.
        """
        scheduler = self.pipeline.scheduler
        try:
            scheduler.set_timesteps(steps)
        except ValueError as error:
            raise UsageError(f"`steps={steps}`: {clean(str(error))}") from None
        found = [int(t) for t in scheduler.timesteps]
        # Rounding of floats gives 61 trailing steps a 62nd one at t = -1.
        if len(found) != steps or not 0 <= min(found) <= max(found) < len(scheduler.betas):
            raise UsageError(
                f"`steps={steps}`: diffusers' {type(scheduler).__name__} puts {len(found)} steps at "
                f"t = {found[0]} to {found[-1]}, outside of 0 to {len(scheduler.betas) - 1}; choose another number"
            )
        return found

    def processing_hw(self, frame_hw: tuple[int, int], resolution: int) -> tuple[int, int]:
        """Size its network sees for frames of that size."""
        return plan_frame(frame_hw, resolution, self.pipeline.vae_scale_factor).padded_hw

    def __call__(
        self, frames_NHW3: npt.NDArray[np.uint8], *, steps: int, resolution: int, **how: Any
    ) -> npt.NDArray[np.float32]:
        """The results at the frames' size.

        Args:
            frames_NHW3: of one size.
            steps: as for ``timesteps``.
            resolution: longest edge the network sees; 0 for the frames' own size.
            how: other arguments of diffusers' pipeline.

        Raises:
            UsageError: frames of that size cannot be processed at that resolution.
            E2EDeployError: the pipeline fails; UnavailableError for want of memory.
        """
        self.processing_hw((frames_NHW3.shape[1], frames_NHW3.shape[2]), resolution)
        try:
            return self._results(frames_NHW3, steps, resolution, how)
        except (RuntimeError, ValueError) as error:
            raise failed("diffusers' pipeline fails", error, E2EDeployError) from error

    def _results(
        self, frames_NHW3: npt.NDArray[np.uint8], steps: int, resolution: int, how: dict[str, Any]
    ) -> npt.NDArray[np.float32]:
        torch, processor = self._torch, self.pipeline.image_processor
        # Copied: PyTorch warns about memory that may not be written to. Contiguous for the same reason as in
        # FrameModel.to_network: an exact peer.
        on_device = torch.from_numpy(np.array(frames_NHW3)).to(self._at)
        rgb_N3HW = on_device.permute(0, 3, 1, 2).contiguous().to(self.pipeline.dtype) / 255
        # The pipeline takes multiples of the VAE's stride alone, and the protocol's size for ETH3D is 756.
        is_taken = resolution % self.pipeline.vae_scale_factor == 0
        frame_hw = tuple(rgb_N3HW.shape[2:])
        if not is_taken:
            rgb_N3HW = processor.resize_to_max_edge(rgb_N3HW, resolution, "bilinear").clamp(0, 1)
        # As fast as it can be at the accuracy of the precision: TF32 has fewer bits than fp32.
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False)
        with quiet("diffusers"), exact:
            found_NCHW: Any = self.pipeline(
                rgb_N3HW,
                num_inference_steps=steps,
                processing_resolution=resolution if is_taken else 0,
                output_type="pt",
                **how,
            ).prediction
        if not is_taken:
            found_NCHW = processor.resize_antialias(found_NCHW, frame_hw, "bilinear", is_aa=False)
            if self._task == "normals":
                found_NCHW = self.pipeline.normalize_normals(found_NCHW)
        result: npt.NDArray[np.float32] = processor.pt_to_numpy(found_NCHW)
        if self._task == "depth":
            return result[..., 0]
        return result * np.array(self._signs, dtype=np.float32)


def _class_for(checkpoint: "Checkpoint") -> str:
    """Name of diffusers' class for the checkpoint, or a UsageError."""
    family, task = checkpoint.identity.family.name, checkpoint.identity.task
    if (family, task) not in PIPELINES:
        there = ", ".join(f"{task} of {family}" for family, task in PIPELINES)
        raise UsageError(
            f"diffusers has no pipeline for {task} of the family {family}; it has for {there}"
        )
    if checkpoint.unet.get("in_channels") == checkpoint.unet.get("out_channels"):
        raise UsageError(
            "diffusers' pipelines give the network the latents of picture and noise, and this one takes the "
            "picture's alone"
        )
    if checkpoint.coder is not None and checkpoint.coder.part != "both":
        raise UsageError(
            f"diffusers' pipelines take one VAE, and here another has the place of its {checkpoint.coder.part} alone"
        )
    return PIPELINES[family, task]


def _put_together(checkpoint: "Checkpoint", pipeline_class: Any, spacing: Spacing | None) -> Any:
    """Diffusers' pipeline with the checkpoint's networks, each compared with its config before it is read.

    Its own ``from_pretrained`` imports whatever modules model_index.json names, and fills in weights that are missing
    with random ones.
    """
    from e2e_deploy.model.checkpoint_configs import read_config
    from e2e_deploy.model.loading import load_model

    diffusers: Any = require("diffusers", "export")
    model = load_model(checkpoint)
    if checkpoint.scheduler.get("_class_name") == "LCMScheduler":
        scheduler = diffusers.LCMScheduler.from_config(dict(checkpoint.scheduler))
    else:
        # Trainings save the one they trained with, as DDPM's; the schedule is the same.
        changes = {} if spacing is None else {"timestep_spacing": spacing}
        scheduler = diffusers.DDIMScheduler.from_config(dict(checkpoint.scheduler), **changes)
    model_index = read_config(checkpoint.path, "model_index.json")
    taken = set(inspect.signature(pipeline_class.__init__).parameters) & set(_OPTIONS)
    options = {name: model_index[name] for name in taken if model_index.get(name) is not None}
    with quiet("diffusers"):
        pipeline = pipeline_class(
            unet=model.unet,
            vae=model.vae,
            scheduler=scheduler,
            text_encoder=None,  # it encodes the empty prompt once, as here
            tokenizer=None,
            prediction_type=checkpoint.identity.task,
            **options,
        )
    pipeline.empty_text_embedding = model.context_1LC
    return pipeline
