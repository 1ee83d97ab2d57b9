"""GenPercept's DPT head: from the features of a UNet's levels to one map, in place of the VAE's decoder.

A reassembly without tokens: the features are maps already, the finest is doubled first. Then the neck of DPT (Ranftl et
al., arXiv 2103.13413, figure 1) fuses them from coarse to fine, doubling each time, and a head of three convolutions
doubles once more. Names of weights are those of the published dpt_head_identity/model.safetensors (aim-uofa/GenPercept,
genpercept/models/dpt_head.py, DPTNeckHeadForUnetAfterUpsampleIdentity), whose last activation is the identity.

N batch, L levels, F fusion channels, h w latent pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2e_deploy.packages import require

FUSION_CHANNELS = 256
"""Of the published head; hf_configs/dpt-sd2.1-unet-after-upsample-general/config.json."""
HEAD_CHANNELS = 32


def double(x_NCHW: Tensor) -> Tensor:
    """Bilinear doubling of both sides, the corners on the corners."""
    return F.interpolate(x_NCHW, scale_factor=2, mode="bilinear", align_corners=True)


class ResidualUnit(nn.Module):
    """x + conv(relu(conv(relu(x)))), 3x3 without biases."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.convolution2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x_NFHW: Tensor) -> Tensor:
        """[N, F, H, W]."""
        hidden: Tensor = self.convolution2(self.convolution1(x_NFHW.relu()).relu())
        return x_NFHW + hidden


class FusionLayer(nn.Module):
    """Adds a level's features to what the coarser ones gave, and doubles.

    Attributes:
        projects_first: the 1x1 projection comes before the doubling: the same function, since bilinear weights sum to
            one, for a quarter of its multiply-adds.
    """

    def __init__(self, channels: int, *, is_first: bool) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, channels, 1)
        if not is_first:
            self.residual_layer1 = ResidualUnit(channels)
        self.residual_layer2 = ResidualUnit(channels)
        self.projects_first = False

    def forward(self, fused_NFHW: Tensor, feature_NFHW: Tensor | None = None) -> Tensor:
        """[N, F, 2H, 2W]; a feature of another size, beside levels of odd size, is resized to ``fused``."""
        if feature_NFHW is not None:
            size = fused_NFHW.shape[2:]
            if feature_NFHW.shape[2:] != size:
                feature_NFHW = F.interpolate(
                    feature_NFHW, size=size, mode="bilinear", align_corners=False
                )
            fused_NFHW = fused_NFHW + self.residual_layer1(feature_NFHW)
        fused_NFHW = self.residual_layer2(fused_NFHW)
        result: Tensor = (
            double(self.projection(fused_NFHW))
            if self.projects_first
            else self.projection(double(fused_NFHW))
        )
        return result


class FusionStage(nn.Module):
    """From the coarsest level to the finest."""

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [FusionLayer(channels, is_first=level == 0) for level in range(levels)]
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Of maps [N, F, ., .], the finest first, one twice as large as the finest."""
        coarsest, *finer = features[::-1]
        fused: Tensor = self.layers[0](coarsest)
        for layer, feature in zip(self.layers[1:], finer, strict=True):
            fused = layer(fused, feature)
        return fused


class Neck(nn.Module):
    """Every level to the same number of channels, then fused."""

    def __init__(self, widths: Sequence[int], channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [nn.Conv2d(width, channels, 3, padding=1, bias=False) for width in widths]
        )
        self.fusion_stage = FusionStage(channels, len(widths))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """[N, F, ., .] of the levels' features, the finest first."""
        each = [conv(feature) for conv, feature in zip(self.convs, features, strict=True)]
        fused: Tensor = self.fusion_stage(each)
        return fused


class LastLayers(nn.Module):
    """Four convolutions with a doubling between them, to one channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, channels, 3, padding=1)
        self.head = nn.Sequential(
            nn.Conv2d(channels, channels // 2, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Conv2d(channels // 2, HEAD_CHANNELS, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(HEAD_CHANNELS, 1, 1),
        )

    def forward(self, fused_NFHW: Tensor) -> Tensor:
        """[N, 1, 2H, 2W]."""
        result: Tensor = self.head(self.projection(fused_NFHW).relu())
        return result


class DPTHead(nn.Module):
    """Features of a UNet's levels to one map, trained to reach from -1 to 1.

    Args:
        widths: channels of the UNet's levels, the finest first (``block_out_channels``).
        channels: that every level is brought to.
    """

    def __init__(self, widths: Sequence[int], channels: int = FUSION_CHANNELS) -> None:
        super().__init__()
        self.widths = tuple(widths)
        upsample = require("diffusers.models.upsampling", "export").Upsample2D
        self.feature_upsample_0 = upsample(widths[0], use_conv=True)
        self.neck = Neck(widths, channels)
        self.head = LastLayers(channels)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "DPTHead":
        """As its config.json describes it: ``neck_hidden_sizes`` and ``fusion_hidden_size``."""
        return cls(config["neck_hidden_sizes"], config["fusion_hidden_size"])

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """[N, 1, 8 h, 8 w] of the features of every level, the finest first, where every level halves exactly.

        Elsewhere its sides are as ``result_side`` says.
        """
        finest, *others = features
        result: Tensor = self.head(self.neck([self.feature_upsample_0(finest), *others]))
        return result


def result_side(latent_side: int, levels: int) -> int:
    """A side of the head's result for one of the latent, of a UNet with so many levels.

    A level halves to the next rounding up. What comes out of the UNet's first upwards block has the size of the last
    level but one; every level doubles that once, and the head once more.
    """
    side = latent_side
    for _ in range(levels - 2):
        side = -(-side // 2)
    return int(side * 2 ** (max(levels, 2) + 1))


def walk_head(head: DPTHead) -> None:
    """Run a head without its numbers.

    Raises:
        ValueError: its layers do not fit together.
    """
    levels = len(head.widths)
    side = 2 ** max(levels - 2, 0)
    with torch.no_grad(), torch.device("meta"):
        features = [
            torch.empty(1, width, side >> max(level - 1, 0), side >> max(level - 1, 0))
            for level, width in enumerate(head.widths)
        ]
        result = head(features)
    wanted = (1, 1, result_side(side, levels), result_side(side, levels))
    if result.shape != wanted:
        raise ValueError(f"its result has the shape {list(result.shape)}, not {list(wanted)}")
