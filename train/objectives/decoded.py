"""The loss of decoded results: which terms of which result weigh how much.

Knows: kinds of result, where each one's truth lies in a batch. Does not know: the network, the mean over a step.

B images, C channels of all results of the model side by side, H W pixels.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TypedDict

import torch
from torch import Tensor

from e2e_deploy.kinds import KINDS
from e2e_deploy.names import ResultKind
from e2e_deploy.train.config.settings import LossConfig, OutputsConfig
from e2e_deploy.train.config.terms import FITTED, PUBLISHED, weights_of
from e2e_deploy.train.objectives.losses import LossResult, depth_loss, normals_loss
from e2e_deploy.train.objectives.terms import (
    absolute_sum,
    aligned,
    gradient_sum,
    moments,
    open_angle_sum,
    squared_sum,
)


class Truth(TypedDict):
    """The part of a batch that a loss reads, on the device of the prediction; see ``Batch``."""

    depth_m: Tensor
    normals: Tensor
    picture: Tensor
    valid: Tensor


class DecodedLoss:
    """What a micro-batch of decoded results adds to the loss of its step.

    Args:
        kinds: of the results, in the order of their channels.
        config: terms and weights.

    Attributes:
        names: of the terms, where there are several; ``LossResult.parts`` are their sums.
    """

    def __init__(self, kinds: Sequence[ResultKind], config: LossConfig) -> None:
        self.kinds, self._config = tuple(kinds), config
        outputs = asdict(config.outputs or OutputsConfig())
        self._terms = [
            (kind, term, weight * (outputs[kind] if len(kinds) > 1 else 1.0))
            for kind in kinds
            for term, weight in weights_of(kind, config.terms).items()
        ]
        names = [f"{kind}_{term}" if len(kinds) > 1 else term for kind, term, _ in self._terms]
        self.names = tuple(names) if len(names) > 1 else ()

    def __call__(self, prediction_BCHW: Tensor, truth: Truth) -> LossResult:
        """The sums; several terms share one count of pixels, those where the truth of every result is known."""
        with torch.autocast(prediction_BCHW.device.type, enabled=False):
            if self.names:
                return self._several(prediction_BCHW, truth)
            ((_, term, weight),) = self._terms
            if term in FITTED:
                result = depth_loss(
                    prediction_BCHW,
                    truth["depth_m"],
                    truth["valid"],
                    relative=term == "relative",
                )
            elif term == "angle":
                result = normals_loss(prediction_BCHW, truth["normals"], truth["valid"])
            else:
                return self._several(prediction_BCHW, truth)
            return replace(result, error_sum=weight * result.error_sum)

    def _several(self, prediction: Tensor, truth: Truth) -> LossResult:
        channels = [KINDS[kind].channels for kind in self.kinds]
        results = dict(zip(self.kinds, torch.split(prediction, channels, dim=1), strict=True))
        usable, negative = _usable(results, truth)
        valid = truth["valid"] & usable[:, None, None, None]
        sums, num_valid = [], valid.sum()
        direction = 0.0 * prediction.double().sum()
        for kind, term, _ in self._terms:
            x = results[kind]
            if term in FITTED:
                found = depth_loss(x, truth["depth_m"], valid, relative=term == "relative")
                sums.append(found.error_sum)
                direction = direction + found.direction_sum
            elif term == "angle":
                sums.append(normals_loss(x, truth["normals"], valid).error_sum)
            elif term == "open_angle":
                total, counts = open_angle_sum(x, truth["normals"], valid)
                sums.append(total)
                num_valid = counts.sum()
            else:
                sums.append(self._in_range(term, x, image_of(kind, truth), valid))
        weights = [weight for _, _, weight in self._terms]
        return LossResult(
            error_sum=sum((w * s for w, s in zip(weights, sums, strict=True)), start=0.0 * sums[0]),
            direction_sum=direction,
            num_valid=num_valid,
            num_degenerate=(~usable).sum(),
            num_flat=torch.zeros_like(num_valid),
            num_negative=negative,
            parts=tuple(each.detach() for each in sums) if self.names else (),
        )

    def _in_range(self, term: str, x: Tensor, y: Tensor, valid: Tensor) -> Tensor:
        """A term whose truth has the range of the decoded image."""
        settings = self._config.terms or PUBLISHED[self.kinds[0]]
        if term == "mse":
            return squared_sum(x, y, valid)
        if term == "l1":
            return absolute_sum(x, y, valid)
        if term == "ssi":
            return absolute_sum(aligned(x, y, valid), y, valid)
        if settings.gradient_of == "aligned":
            x = aligned(x, y, valid)
        return gradient_sum(x, y, valid, scales=settings.gradient_scales)


def _usable(results: dict[ResultKind, Tensor], truth: Truth) -> tuple[Tensor, Tensor]:
    """Images whose truth teaches something, bool [B]; and in how many near and far are exchanged."""
    valid = truth["valid"]
    usable = valid.flatten(1).any(dim=1)
    negative = torch.zeros_like(usable)
    for kind, x in results.items():
        if KINDS[kind].form == "distance":
            found = moments(x.detach(), image_of(kind, truth), valid)
            usable = usable & ~found.is_degenerate[:, 0]
            negative = negative | (found.covariance[:, 0] < 0)
    return usable, (negative & usable).sum()


def image_of(kind: ResultKind, truth: Truth) -> Tensor:
    """The truth of a result in the range of the decoded image, [-1, 1]: [B, channels of the kind, H, W].

    Depth and disparity go from the 2 to the 98 per cent quantile of each picture's depth; 0 everywhere in an image
    whose depth is flat or unknown.
    """
    if kind == "normals":
        return truth["normals"]
    if KINDS[kind].form == "picture":
        return truth["picture"]
    depth = truth["depth_m"].double()
    y = depth if kind == "depth" else 1.0 / depth.clamp(min=1e-6)
    # Depth comes clamped to its quantiles, with the far value where it is unknown.
    low, high = y.amin(dim=(1, 2, 3), keepdim=True), y.amax(dim=(1, 2, 3), keepdim=True)
    is_flat = high <= low
    return torch.where(is_flat, 0.0, 2 * (y - low) / torch.where(is_flat, 1.0, high - low) - 1)
