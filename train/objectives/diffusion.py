"""Marigold's objective: the UNet's output for a noisy latent of the truth, and the DDIM steps that use such a UNet.

x_t = sqrt(a) x0 + sqrt(1 - a) noise, at a random timestep t of each image; the output is compared with x0, the noise
or v = sqrt(a) noise - sqrt(1 - a) x0, as the schedule's prediction type says (Marigold, arXiv 2312.02145; v: arXiv
2202.00512). A latent counts where all of its pixels have a truth. Every draw comes from the seed of its image, so that
a continued run draws what an unbroken one does.

B images, H W pixels, h w latent pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from e2e_deploy.errors import CheckpointError, UsageError
from e2e_deploy.packages import require
from e2e_deploy.train.config.settings import DiffusionConfig
from e2e_deploy.train.objectives.losses import LossResult
from e2e_deploy.train.objectives.noise import latent_noise

Network = Callable[[Tensor, Tensor], Tensor]
"""Noisy latent [B, 4, h, w] and timestep [B] to the UNet's output [B, 4, h, w]."""


@dataclass(frozen=True, slots=True)
class Noisy:
    """What the UNet is given and what it should answer."""

    xt_B4hw: Tensor
    timestep_B: Tensor
    target_B4hw: Tensor


class Diffusion:
    """The forward process of one run, and its way back.

    Args:
        scheduler_config: of the start.
        config: of the run.

    Attributes:
        overrides: what the schedule of the result has that the start's has not.

    Raises:
        CheckpointError: the config describes no noise schedule.
        UsageError: a schedule without signal at its end for a UNet that predicts the noise.
    """

    def __init__(self, scheduler_config: Mapping[str, Any], config: DiffusionConfig) -> None:
        self._config = config
        self.overrides = {"rescale_betas_zero_snr": True} if config.zero_snr else {}
        diffusers = require("diffusers", "export")
        fixed = {"timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": True}
        try:
            self._scheduler = diffusers.DDIMScheduler.from_config(
                dict(scheduler_config) | fixed | self.overrides
            )
        except Exception as error:
            raise CheckpointError(
                f"the schedule of the start cannot be used: {' '.join(str(error).split())[:300]}"
            ) from None
        self._kind = str(self._scheduler.config.prediction_type)
        self._alphas: Tensor = self._scheduler.alphas_cumprod
        if self._kind == "epsilon" and self._scheduler.config.rescale_betas_zero_snr:
            raise UsageError(
                "the start's UNet predicts the noise (epsilon), which says nothing of the result where no signal is "
                "left: set diffusion.zero_snr = false, or begin with a v_prediction checkpoint"
            )

    @property
    def num_timesteps(self) -> int:
        """Of the schedule."""
        return len(self._alphas)

    def noisy(self, x0_B4hw: Tensor, seeds: Sequence[int]) -> Noisy:
        """Every latent at a timestep and with noise of its own, both drawn from its seed."""
        config, device = self._config, x0_B4hw.device
        timesteps, noises = [], []
        for seed in seeds:
            # Another stream than the noise's, and on the CPU: how strong its coarse grids are must be known here.
            t = int(np.random.default_rng([seed, 1]).integers(self.num_timesteps))
            share = t / self.num_timesteps if config.annealed else 1.0
            noises.append(
                latent_noise(
                    config.noise,
                    (1, *x0_B4hw.shape[1:]),
                    generator=torch.Generator(device).manual_seed(seed),
                    strength=config.strength * share,
                )
            )
            timesteps.append(t)
        noise, x0 = torch.cat(noises), x0_B4hw.float()
        timestep = torch.tensor(timesteps)
        alpha = self._alphas[timestep].to(device).view(-1, 1, 1, 1)
        signal, spread = alpha.sqrt(), (1 - alpha).sqrt()
        targets = {"sample": x0, "epsilon": noise, "v_prediction": signal * noise - spread * x0}
        return Noisy(
            signal * x0 + spread * noise,
            timestep.to(device, non_blocking=True),
            targets[self._kind],
        )

    def sample(self, network: Network, noise_B4hw: Tensor) -> Tensor:
        """The clean latent after ``measured_steps`` deterministic DDIM steps from pure noise."""
        self._scheduler.set_timesteps(self._config.measured_steps, device=noise_B4hw.device)
        x = noise_B4hw
        for t in self._scheduler.timesteps:
            output = network(x, t.expand(len(x))).float()
            x = self._scheduler.step(output, t, x, eta=0.0).prev_sample
        return x


def latent_loss(
    output_B4hw: Tensor, target_B4hw: Tensor, valid_B1HW: Tensor, stride: int
) -> LossResult:
    """Squared errors of the latents all of whose ``stride`` x ``stride`` pixels are valid; channels count singly."""
    output, target = output_B4hw.double(), target_B4hw.double()
    known = ~(functional.max_pool2d((~valid_B1HW).float(), stride).bool())
    error = torch.where(known, (output - target).square(), 0.0)
    none = torch.zeros((), dtype=torch.int64, device=error.device)
    return LossResult(
        error_sum=error.sum(),
        direction_sum=0.0 * error.sum(),
        num_valid=known.sum() * output.shape[1],
        num_degenerate=(~known.flatten(1).any(dim=1)).sum(),
        num_flat=none,
        num_negative=none,
    )
