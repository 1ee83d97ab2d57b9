"""What a step makes small: the losses of decoded results, or the error of a denoised latent.

Knows: how a pass becomes sums that a step adds up, and how the model in training is used. Does not know: the optimizer,
the mean over a step.

B images of a pass, C channels of all results, H W pixels, h w latent pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from e2e_deploy.train.config.settings import TrainConfig
from e2e_deploy.train.objectives.decoded import DecodedLoss, Truth, image_of
from e2e_deploy.train.objectives.diffusion import Diffusion, latent_loss
from e2e_deploy.train.objectives.losses import LossResult
from e2e_deploy.train.objectives.noise import latent_noise
from e2e_deploy.train.step.forward import TrainingForward


class Objective(Protocol):
    """What the steps of a run do with a pass."""

    names: tuple[str, ...]
    """Of ``LossResult.parts``."""
    denoises: bool
    """Whether a pass ends with the UNet's output."""
    schedule: Mapping[str, Any]
    """What the schedule of the result has beside the start's."""

    def results(
        self, rgb_B3HW: Tensor, truths: Sequence[Truth], seeds: Sequence[int]
    ) -> list[LossResult]:
        """What each micro-batch of a pass adds to its step; ``seeds`` are one an image."""
        ...

    def predict(self, rgb_B3HW: Tensor) -> Tensor:
        """Results [B, C, H, W] in [-1, 1] as the trained model is used; the same every time."""
        ...


class Decoded:
    """End to end: one step, decoded, against the truth of its pixels."""

    denoises = False
    schedule: Mapping[str, Any] = {}

    def __init__(self, forward: TrainingForward, config: TrainConfig) -> None:
        self._forward, self._noise_kind = forward, config.model.noise
        self._loss = DecodedLoss([kind.name for kind in forward.model.kinds], config.loss)
        self.names = self._loss.names

    def results(
        self, rgb_B3HW: Tensor, truths: Sequence[Truth], seeds: Sequence[int]
    ) -> list[LossResult]:
        """As of ``Objective``."""
        prediction = self._forward(rgb_B3HW, self._noise(rgb_B3HW, seeds))
        shares = torch.split(prediction, [len(truth["valid"]) for truth in truths])
        return [self._loss(share, truth) for share, truth in zip(shares, truths, strict=True)]

    def predict(self, rgb_B3HW: Tensor) -> Tensor:
        """As of ``Objective``; with zeros, whatever noise the training has."""
        result: Tensor = self._forward(rgb_B3HW, None)
        return result

    def _noise(self, rgb: Tensor, seeds: Sequence[int]) -> Tensor | None:
        """Every image has its own seed, so that its noise does not depend on the micro-batch it is in."""
        kind = self._noise_kind
        if kind == "zeros" or kind == "none":
            return None
        shape = (1, *_latent_shape(self._forward, rgb))
        generators = (torch.Generator(rgb.device).manual_seed(seed) for seed in seeds)
        return torch.cat([latent_noise(kind, shape, generator=each) for each in generators])


class Denoised:
    """Marigold's: the UNet learns to take the noise out of the latent of the truth, and is used in several steps.

    Args:
        forward: the model; its VAE encodes the truth.
        config: of the run, with ``diffusion``.
        scheduler_config: of the start.

    Attributes:
        diffusion: the forward process.

    Raises:
        CheckpointError, UsageError: as of ``Diffusion``.
    """

    denoises = True
    names: tuple[str, ...] = ()

    def __init__(
        self, forward: TrainingForward, config: TrainConfig, scheduler_config: Mapping[str, Any]
    ) -> None:
        assert config.diffusion is not None
        self._forward, self._seed = forward, config.run.seed
        (kind,) = forward.model.kinds
        self._kind = kind.name
        self.diffusion = Diffusion(scheduler_config, config.diffusion)
        self.schedule: Mapping[str, Any] = self.diffusion.overrides

    def results(
        self, rgb_B3HW: Tensor, truths: Sequence[Truth], seeds: Sequence[int]
    ) -> list[LossResult]:
        """As of ``Objective``."""
        model = self._forward.model
        images = torch.cat([image_of(self._kind, truth).float() for truth in truths])
        with torch.no_grad():
            x0 = model.encode(images.expand(-1, 3, -1, -1))
        noisy = self.diffusion.noisy(x0, seeds)
        output = self._forward(rgb_B3HW, noisy.xt_B4hw, noisy.timestep_B)
        counts = [len(truth["valid"]) for truth in truths]
        return [
            latent_loss(answer, target, truth["valid"], model.stride)
            for answer, target, truth in zip(
                torch.split(output, counts),
                torch.split(noisy.target_B4hw, counts),
                truths,
                strict=True,
            )
        ]

    def predict(self, rgb_B3HW: Tensor) -> Tensor:
        """As of ``Objective``: DDIM steps from noise that is the same for every picture of a size."""
        forward = self._forward
        z_B4hw = forward.model.encode(rgb_B3HW)
        noise = latent_noise(
            "gaussian",
            (1, *_latent_shape(forward, rgb_B3HW)),
            generator=torch.Generator(rgb_B3HW.device).manual_seed(self._seed),
        ).expand_as(z_B4hw)
        x0 = self.diffusion.sample(lambda x, t: forward.denoise(z_B4hw, x, t), noise)
        return forward.read(forward.model.decode(x0.to(z_B4hw.dtype)))


def _latent_shape(forward: TrainingForward, rgb: Tensor) -> tuple[int, int, int]:
    model = forward.model
    return (
        model.latent_channels,
        rgb.shape[2] // model.stride,
        rgb.shape[3] // model.stride,
    )
