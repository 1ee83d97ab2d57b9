"""The networks that are measured, as three calls from uint8 frames [N, H, W, 3] to depth [N, H, W].

Full size with random weights or e2e-tiny, plain and specialised, in the type of the device; and as shapes alone, to
count what they do. Knows models and pictures; knows nothing of compilers and clocks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchmarks.export.specialise import full_size_model
from benchmarks.full_size import tiny_coder
from benchmarks.gpu.timing import Call, Device
from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.export.graph.precision import LastConvolution, to_precision
from e2e_deploy.export.graph.specialise import specialise
from e2e_deploy.frames import FramePlan, plan_frame
from e2e_deploy.model.checkpoint import bundled_checkpoint, open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.model.single_step import FrameModel, SingleStepModel, read_mean

TOKENS = 2  # of the empty prompt
STAGES = ("encoder", "unet", "decoder")


def make_model(device: str, *, small: bool) -> SingleStepModel:
    """The depth model in fp32: of SD2's size with the same random weights every time, or the trained e2e-tiny."""
    if small:
        model = load_model(open_checkpoint(bundled_checkpoint("depth")))
        return model.to(device)
    torch.manual_seed(0)
    return full_size_model(TOKENS, device)


def own_size(frame_hw: tuple[int, int], stride: int) -> FramePlan:
    """Frames that the network sees as they are."""
    plan = plan_frame(frame_hw, 0, stride)
    assert not plan.resizes
    return plan


def make_inputs(frame_hw: tuple[int, int], batch: int, count: int = 4) -> npt.NDArray[np.uint8]:
    """Real pictures, mirrored and shifted so that all differ: uint8 [count, batch, H, W, 3]."""
    pictures = reference_frames(frame_hw)
    frames = [
        np.roll(pictures[i % 2][:, :: 1 if i % 4 < 2 else -1], 16 * i, axis=1)
        for i in range(count * batch)
    ]
    return np.stack(frames).reshape(count, batch, *frames[0].shape)


class Staged(nn.Module):
    """A model as three calls, frame to depth; the frame's steps belong to the encoder and the decoder.

    Args:
        body: SingleStepModel or SpecialisedModel, on its device and in its types.
        plan: of the frames.
        dtype: that the encoder takes.
        channels_last: order of the first tensor; convolutions keep it.
    """

    def __init__(
        self, body: Any, plan: FramePlan, dtype: torch.dtype, *, channels_last: bool
    ) -> None:
        super().__init__()
        self.body = body
        device = next(body.parameters()).device
        self.steps = FrameModel(nn.Identity(), plan, [kind.name for kind in body.kinds]).to(device)
        self.dtype = dtype
        self.order = torch.channels_last if channels_last else torch.contiguous_format

    def encoder(self, frame_NHW3: Tensor) -> Tensor:
        """What the UNet takes."""
        rgb_N3HW = self.steps.to_network(frame_NHW3).to(self.dtype)
        latent: Tensor = self.body.encode(rgb_N3HW.contiguous(memory_format=self.order))
        return latent

    def unet(self, latent: Tensor) -> Tensor:
        """What the decoder takes."""
        body = self.body
        if isinstance(body, SingleStepModel):
            return body.predict_x0(latent)
        context = body.context_1LC
        if context is not None:
            context = context.expand(latent.shape[0], -1, -1)
        output: Tensor = body.unet(latent, body.timestep, context, return_dict=False)[0]
        return output

    def decoder(self, output: Tensor) -> Tensor:
        """Depth float32 [N, H, W] in [0, 1]."""
        depth_N1HW = read_mean(self.body.decode(output)).unsqueeze(1)
        return self.steps.to_frame(depth_N1HW.float()).squeeze(1)

    def stages(self) -> dict[str, Call]:
        """The three calls by name, in order."""
        return {name: getattr(self, name) for name in STAGES}


def half(body: Any, dtype: torch.dtype) -> Any:
    """The body in a 16-bit type as torch would run it: its norms take their statistics in fp32 by themselves.

    The last convolution and what follows stay fp32, where a step of fp16 would show as bands.
    """
    body.to(dtype)
    if dtype != torch.float32:
        path = body.last_convolution
        body.set_submodule(path, LastConvolution(body.get_submodule(path)))
    return body


def with_small_vae(model: SingleStepModel) -> SingleStepModel:
    """The model with an AutoencoderTiny for its VAE; changed in place, the same random weights every time."""
    device = model.unet.device
    torch.manual_seed(0)
    with torch.device(device):
        model.vae = tiny_coder()
    return model


def _exported(model: SingleStepModel, device: Device) -> Any:
    made = to_precision(specialise(model)[0], device.precision, fused_attention=True)
    return made if device.precision == "fp32" else made.model


@dataclass(frozen=True)
class Body:
    """How a network is made of the fp32 model.

    Attributes:
        make: the network.
        work: whose work it does, a key of WORK.
        model: changes the fp32 model first, where the weights are not the others'.
    """

    make: Callable[[SingleStepModel, Device], Any]
    work: str
    model: Callable[[SingleStepModel], SingleStepModel] | None = None


BODIES = {
    "plain": Body(lambda model, device: half(model, device.dtype), "plain"),
    "specialised": Body(
        lambda model, device: half(specialise(model)[0], device.dtype), "specialised"
    ),
    "not_upsampled": Body(
        lambda model, device: half(specialise(model, upsample=False)[0], device.dtype),
        "not_upsampled",
    ),
    "exported": Body(_exported, "specialised"),
    "turbo": Body(
        lambda model, device: half(specialise(with_small_vae(model))[0], device.dtype),
        "turbo",
        with_small_vae,
    ),
}
"""All passes, all but the upsampling pass, with the types of an export, and all passes with a small VAE."""

WORK: dict[str, Callable[[SingleStepModel], Any]] = {
    "plain": lambda model: model,
    "specialised": lambda model: specialise(model)[0],
    "not_upsampled": lambda model: specialise(model, upsample=False)[0],
    "turbo": lambda model: specialise(with_small_vae(model))[0],
}
"""The functions whose operations are counted."""


def shapes_only(work: str, plan: FramePlan, dtype: torch.dtype, *, small: bool) -> dict[str, Call]:
    """The three calls of a network on the meta device: shapes and no numbers."""
    model = make_model("meta", small=small)
    body = WORK[work](model).to(dtype).eval()
    return Staged(body, plan, dtype, channels_last=False).stages()
