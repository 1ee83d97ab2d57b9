"""StableNormal-turbo: a ControlNet reads the picture's latent, and a UNet that is given noise makes normals of it.

The ControlNet's features are added to the UNet's own on their way up as they are, without the 1x1 convolutions and the
picture embedding that its weights hold as well. Facts: arXiv 2406.16864; the pipelines named in model/families.py; its
ControlNetVAEModel, in controlnetvae.py beside its weights.

N batch, h w latent pixels, L prompt tokens, C prompt width.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from e2e_deploy.errors import CheckpointError
from e2e_deploy.model.checkpoint import Checkpoint
from e2e_deploy.model.families import CONTROLNET
from e2e_deploy.model.networks.parts import load_part
from e2e_deploy.model.networks.unet_features import go_down
from e2e_deploy.model.single_step import SingleStepModel
from e2e_deploy.packages import require

_SHARED = (
    "in_channels",
    "block_out_channels",
    "down_block_types",
    "layers_per_block",
    "cross_attention_dim",
)
"""Settings in which the ControlNet's config must be as the UNet's."""
_UNREAD = ("controlnet_cond_embedding", "controlnet_down_blocks", "controlnet_mid_block")


@lru_cache(maxsize=16)
def seeded_noise(seed: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Gaussian noise of a seed, the same with every version of NumPy and torch: NumPy's RandomState is frozen."""
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def noise_like(latent_N4hw: Tensor, seed: int) -> Tensor:
    """Noise of a latent's size, type and device, the same for every picture of the batch."""
    noise = torch.from_numpy(seeded_noise(seed, tuple(map(int, latent_N4hw.shape[1:]))))
    return noise.to(latent_N4hw).expand(latent_N4hw.shape)


class ControlNet:
    """diffusers' ControlNetModel, of which only what its latent goes through is read."""

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Any:
        """The network, with the numbers it is made with.

        Raises:
            ValueError: it gives means in place of features.
        """
        network = require("diffusers", "export").ControlNetModel.from_config(dict(config))
        if network.config.global_pool_conditions:
            raise ValueError("global_pool_conditions is true")
        return network


def _walk(network: Any) -> None:
    """Run a ControlNet without its numbers."""
    config = network.config
    side = 2 ** len(config.block_out_channels)
    with torch.no_grad(), torch.device("meta"):
        latent = torch.empty(1, config.in_channels, side, side)
        go_down(network, latent, 0, torch.empty(1, 2, config.cross_attention_dim))


def load_controlnet(checkpoint: Checkpoint, unet: Any) -> Any:
    """The ControlNet of a checkpoint, without what is not read of it.

    Raises:
        CheckpointError: as of ``load_part``, or its features do not fit ``unet``.
    """
    network = load_part(checkpoint, CONTROLNET, ControlNet, walk=_walk)
    for name in _SHARED:
        ours, wanted = (each.config[name] for each in (network, unet))
        as_lists = [list(x) if isinstance(x, tuple | list) else x for x in (ours, wanted)]
        if as_lists[0] != as_lists[1]:
            raise CheckpointError(
                f"{checkpoint.folder(CONTROLNET) / 'config.json'} has {name} = {as_lists[0]}, the unet's has "
                f"{as_lists[1]}; they must be the same"
            )
    for name in _UNREAD:
        setattr(network, name, None)
    return network


class StableNormalModel(SingleStepModel):
    """One evaluation of a ControlNet and of a UNet whose features it adds to.

    Attributes:
        controlnet: diffusers ControlNetModel, as ``load_controlnet`` gives it.
        seed: of the noise that the UNet is given; None: it is given the rgb latent.
    """

    controlnet: Any

    def __init__(
        self,
        unet: Any,
        vae: Any,
        context_1LC: Tensor,
        *,
        controlnet: Any,
        seed: int | None,
        **given: Any,
    ) -> None:
        super().__init__(unet, vae, context_1LC, **given)
        self.controlnet = controlnet
        self.seed = seed

    def predict_x0(
        self,
        z_N4hw: Tensor,
        xt_N4hw: Tensor | None = None,
        context_NLC: Tensor | None = None,
    ) -> Tensor:
        """As of SingleStepModel; ``xt_N4hw`` takes the place of what the UNet is given."""
        context = self._same_context(len(z_N4hw)) if context_NLC is None else context_NLC
        if xt_N4hw is None:
            xt_N4hw = z_N4hw if self.seed is None else noise_like(z_N4hw, self.seed)
        kept, middle = go_down(self.controlnet, z_N4hw, self.timestep, context)
        output: Tensor = self.unet(
            xt_N4hw,
            self.timestep,
            context,
            down_block_additional_residuals=kept,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]
        return output * self.x0_from_output
