"""The forward pass that is differentiated: rgb and noise in, the deployed reading out.

Knows: which parts are trained, where gradients stop, what stays in float32, what would make a GPU wait.
Does not know: losses, data, devices.

B images, H W pixels, h w latent pixels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from e2e_deploy.kinds import Kind
from e2e_deploy.model.single_step import SingleStepModel


class _ClampInward(torch.autograd.Function):
    """Clamp to [-1, 1] whose gradient is cut only where it would push a value further out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(-1.0, 1.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,), (gradient,) = ctx.saved_tensors, gradients
        # Descent moves against the gradient: a negative one raises the value.
        outward = ((x > 1.0) & (gradient < 0)) | ((x < -1.0) & (gradient > 0))
        return gradient.masked_fill(outward, 0.0)


def clamp_inward(x: Tensor) -> Tensor:
    """``x`` clamped to [-1, 1]; saturated values still get gradients that lead back into the range.

    The plain clamp of the published code leaves them without any, which costs little when a trained
    decoder is fine-tuned and can stop a random one from learning at all.
    """
    result: Tensor = _ClampInward.apply(x)  # type: ignore[no-untyped-call]  # torch's
    return result


DECODER = ("decoder", "post_quant_conv")
"""Of a VAE, what comes after x0."""


class TrainingForward(nn.Module):
    """The single-step model with gradients where they belong.

    Args:
        model: parts to train get ``requires_grad``, all others lose it.
        train: some of ``unet``, ``vae``, ``decoder``, which is a part of the vae, and ``head``.
        gradient_checkpointing: recompute activations of UNet and VAE in the backward pass.

    Attributes:
        float32_layers: compute in float32 under autocast too.
    """

    timestep_1: Tensor

    def __init__(
        self, model: SingleStepModel, *, train: Sequence[str], gradient_checkpointing: bool
    ) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.parts: dict[str, nn.Module] = {
            name: getattr(model, name) for name in ("unet", "vae", "head") if name in train
        }
        if "decoder" in train:
            found = {name: getattr(model.vae, name, None) for name in DECODER}
            self.parts |= {name: part for name, part in found.items() if part is not None}
        for part in self.parts.values():
            part.requires_grad_(True)
        if gradient_checkpointing:
            self.checkpoint_activations()
        # Older diffusers checkpoints only in training mode; these networks hold nothing else it changes.
        model.train()
        self.float32_layers: tuple[nn.Module, ...] = (model.get_submodule(model.last_convolution),)
        for layer in self.float32_layers:
            keep_float32(layer)
        # The UNet would copy a number to the GPU in every pass, and wait for it.
        self.register_buffer("timestep_1", torch.tensor([model.timestep]), persistent=False)
        model.unet.register_forward_pre_hook(self._with_timestep)

    def _with_timestep(self, _unet: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """What the UNet is called with, the model's number for the one step as a tensor that is there already."""
        timestep = given[1] if isinstance(given[1], Tensor) else self.timestep_1
        return (given[0], timestep, *given[2:])

    def checkpoint_activations(self) -> None:
        """Recompute activations of UNet and VAE in the backward pass from now on."""
        self.model.unet.enable_gradient_checkpointing()
        self.model.vae.enable_gradient_checkpointing()
        if type(self.model.vae.encoder).__name__ == "EncoderTiny":
            # Diffusers' forgets, where it checkpoints, to bring its input to [0, 1].
            self.model.vae.encoder.gradient_checkpointing = False

    def named_trained(self) -> list[tuple[str, nn.Parameter]]:
        """Trained parameters with their names in the model, in a fixed order."""
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]

    def forward(
        self,
        rgb_B3HW: Tensor,
        noise_B4hw: Tensor | None,
        timestep_B: Tensor | None = None,
    ) -> Tensor:
        """Results [B, channels of every kind, H, W], float32 in [-1, 1], of rgb in [-1, 1].

        ``noise_B4hw`` None means zeros. Maps are means of decoded channels; vectors are clipped as the family's reading
        clips them, and not normalised. With a ``timestep_B`` nothing is decoded: ``noise_B4hw`` is a noisy latent, and
        the result the UNet's own output [B, 4, h, w] for it.
        """
        with torch.set_grad_enabled("vae" in self.parts and torch.is_grad_enabled()):
            z_B4hw = self.model.encode(rgb_B3HW)
        if timestep_B is not None:
            assert noise_B4hw is not None
            return self.denoise(z_B4hw, noise_B4hw, timestep_B)
        with torch.no_grad():
            context_BLC = self.model.context(rgb_B3HW)
        return self.read(self.model.decode(self.model.predict_x0(z_B4hw, noise_B4hw, context_BLC)))

    def denoise(self, z_B4hw: Tensor, xt_B4hw: Tensor, timestep_B: Tensor) -> Tensor:
        """The UNet's output [B, 4, h, w], float32, for the latent of a picture and a noisy one of its result."""
        model = self.model
        context = model.context(z_B4hw)
        network_in = torch.cat([z_B4hw, xt_B4hw.to(z_B4hw.dtype)], dim=1)
        output: Tensor = model.unet(network_in, timestep_B, context, return_dict=False)[0]
        return output.float()

    def read(self, image_BKHW: Tensor) -> Tensor:
        """Decoded images of all results, side by side, as ``forward`` gives them."""
        kinds = self.model.kinds
        images = image_BKHW.float().chunk(len(kinds), dim=1)
        read = [
            image.mean(dim=1, keepdim=True) if kind.channels == 1 else self._turned(image, kind)
            for image, kind in zip(images, kinds, strict=True)
        ]
        return clamp_inward(torch.cat(read, dim=1))

    def _turned(self, image_B3HW: Tensor, kind: Kind) -> Tensor:
        """Vectors in our axes, x right, y up, z toward the viewer; other images as they are."""
        signs = self.model.family.normals_signs
        if kind.form != "vectors" or min(signs) > 0:
            return image_B3HW
        return torch.stack(
            [
                -axis if sign < 0 else axis
                for axis, sign in zip(image_B3HW.unbind(1), signs, strict=True)
            ],
            dim=1,
        )


def keep_float32(module: nn.Module) -> None:
    """Let ``module`` compute in float32 under autocast too, without renaming its weights."""
    compute = module.forward

    def forward(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            result: Tensor = compute(x.float())
        return result

    module.forward = forward
