"""GeoWizard: depth and normals in one evaluation, as two pictures of a batch that attend to each other.

Facts: fuxiao0719/GeoWizard (arXiv 2403.12013), geowizard_pipeline.py and geowizard_v2_pipeline.py; the single step of
VisualComputingInstitute/diffusion-e2e-ft, GeoWizard/.

N pictures, K results (depth, then normals), h w latent pixels, L tokens, C width of the context, D numbers of a class.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from e2e_deploy.model.networks.joint_attention import join_self_attentions
from e2e_deploy.model.networks.picture_context import PictureContext
from e2e_deploy.model.single_step import SingleStepModel, side_by_side
from e2e_deploy.names import DOMAINS, Domain

GEOMETRIES = 2
"""What the first numbers of a class choose: the second of two for depth, the first for normals."""


def _waves(chosen: int, count: int) -> list[float]:
    """Sine and cosine of the numbers of a one-hot vector."""
    one_hot = [1.0 if index == chosen else 0.0 for index in range(count)]
    return [math.sin(x) for x in one_hot] + [math.cos(x) for x in one_hot]


def class_labels(domain: Domain | None) -> Tensor:
    """What the UNet's class embedding is given, a row a result: [2, 10], or [2, 4] where the domain is no class."""
    of_domain = [] if domain is None else _waves(DOMAINS.index(domain), len(DOMAINS))
    return torch.tensor([_waves(1, GEOMETRIES) + of_domain, _waves(0, GEOMETRIES) + of_domain])


def for_each_result(x_N: Tensor, count: int) -> Tensor:
    """[N, ...] as [N K, ...]: every picture ``count`` times, one after the other."""
    return x_N.unsqueeze(1).expand(-1, count, *x_N.shape[1:]).flatten(0, 1)


class GeoWizardModel(SingleStepModel):
    """One evaluation of a UNet whose batch holds the K results of a picture one after the other.

    Attributes:
        class_labels_1D: [K, D].
        picture_context: gives the context from the picture; None where it is a prompt.
    """

    picture_context: nn.Module | None

    def __init__(
        self,
        unet: Any,
        vae: Any,
        context_1LC: Tensor | None,
        *,
        picture_context: PictureContext | None = None,
        **given: Any,
    ) -> None:
        super().__init__(unet, vae, context_1LC, **given)
        self.picture_context = picture_context
        join_self_attentions(self.unet, len(self.kinds))

    def context(self, rgb_N3HW: Tensor) -> Tensor:
        """As of SingleStepModel; the embedding of each picture where there is no prompt."""
        if self.picture_context is None:
            return super().context(rgb_N3HW)
        context_N1C: Tensor = self.picture_context(rgb_N3HW)
        return context_N1C

    def predict_x0(
        self,
        z_N4hw: Tensor,
        xt_N4hw: Tensor | None = None,
        context_NLC: Tensor | None = None,
    ) -> Tensor:
        """As of SingleStepModel; noise [N, 4, h, w] is the same for all results of a picture, as published."""
        count = len(self.kinds)
        second = torch.zeros_like(z_N4hw) if xt_N4hw is None else xt_N4hw
        network_in = torch.cat([z_N4hw, second], dim=1)
        context = self._same_context(len(z_N4hw)) if context_NLC is None else context_NLC
        labels_KD = self.class_labels_1D
        assert labels_KD is not None
        output: Tensor = self.unet(
            for_each_result(network_in, count),
            self.timestep,
            for_each_result(context, count),
            class_labels=labels_KD.repeat(len(z_N4hw), 1),
            return_dict=False,
        )[0]
        x0 = output * self.x0_from_output
        if xt_N4hw is not None:
            x0 = x0 + for_each_result(xt_N4hw, count) * self.x0_from_xt
        return side_by_side(x0, count)
