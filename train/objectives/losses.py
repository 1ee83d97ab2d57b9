"""Task losses on decoded predictions: scale-and-shift-invariant depth with its direction, angular normals.

Knows: what one homogeneous micro-batch adds to the loss of its step, masks, images that have no loss.
Does not know: the network, the decoder's scaling, the mean over a step, or what the optimizer does.

B = images, H, W = pixels. Formulas: arXiv 2409.11355, section 4 and supplement; the published
code's disconnected zero for an empty batch and its cancelling fp32 determinant are avoided.
"""

import math
from dataclasses import dataclass

import torch

from e2e_deploy.train.objectives.terms import MIN_STD, moments

MIN_NORMAL_LENGTH = 0.5
"""Target normals are unit vectors, or zero where invalid; the threshold tells the two apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossResult:
    """The sums of a micro-batch, so that a step can take one mean over all of its own; scalars, never synchronised.

    Both sums are float64 and connected to the prediction's graph, also when they are zero.
    """

    error_sum: torch.Tensor
    """Of the valid pixels: metres or shares for depth, radians for normals, or what the terms of a config give."""
    direction_sum: torch.Tensor
    """Of the valid pixels, metres or shares: ``depth_loss`` says what it is; zero for normals."""
    num_valid: torch.Tensor
    """int64: pixels that were summed over."""
    num_degenerate: torch.Tensor
    """int64: images without a usable truth (no or one valid pixel, flat); they add to no sum."""
    num_flat: torch.Tensor
    """int64: images whose truth is usable and whose prediction is flat; they add an error and no gradient."""
    num_negative: torch.Tensor
    """int64: images whose fitted scale is negative: near and far are exchanged."""
    parts: tuple[torch.Tensor, ...] = ()
    """float64: what the terms of a loss of several add up to, each before its weight."""

    @property
    def loss(self) -> torch.Tensor:
        """Mean error over the valid pixels of this micro-batch; a connected zero if there are none."""
        return self.error_sum / self.num_valid.clamp(min=1)


def depth_loss(
    pred_B1HW: torch.Tensor,
    depth_m_B1HW: torch.Tensor,
    valid_B1HW: torch.Tensor,
    *,
    relative: bool = False,
) -> LossResult:
    """Absolute error in metres after the best scale and shift of every image, and the direction of that scale.

    Per image, least squares over the valid pixels maps the PREDICTION onto the METRIC depth; the
    gradient flows through scale and shift. The scale may be negative: ``error_sum`` is the paper's and does not
    know near from far. ``direction_sum`` does: for every pixel of an image with a negative scale it adds the
    deviation in metres that the fit explains with the wrong sign, ``-covariance / deviation of the prediction``,
    and nothing for the others. A NaN prediction gives a NaN loss: the caller has to see it.

    Args:
        pred_B1HW: predicted depth in [-1, 1] or [0, 1]; the loss ignores affine changes of it.
        depth_m_B1HW: metres; whatever stands at invalid pixels is ignored.
        valid_B1HW: bool.
        relative: both sums are of shares of a pixel's true depth instead of metres, so that the error is AbsRel.

    Raises:
        ValueError: the three shapes differ, or are not [B, 1, H, W].
    """
    if not (pred_B1HW.shape == depth_m_B1HW.shape == valid_B1HW.shape) or pred_B1HW.ndim != 4:
        raise ValueError(
            "prediction, depth and mask must share one shape [B, 1, H, W]: got "
            f"{tuple(pred_B1HW.shape)}, {tuple(depth_m_B1HW.shape)}, {tuple(valid_B1HW.shape)}"
        )
    with torch.autocast(pred_B1HW.device.type, enabled=False):
        found = moments(pred_B1HW, depth_m_B1HW, valid_B1HW)
        degenerate = found.is_degenerate
        flat = ~degenerate & (found.x_variance <= MIN_STD**2)
        x_variance = torch.where(degenerate | flat, 1.0, found.x_variance)
        covariance = torch.where(flat, 0.0, found.covariance)
        used = valid_B1HW.flatten(1).bool() & ~degenerate
        # scale * x + shift - y, with shift = y_mean - scale * x_mean.
        error = (covariance / x_variance * found.x_centred - found.y_centred).abs()
        wrong = (-covariance / x_variance.sqrt()).clamp(min=0).expand_as(error)
        if relative:
            depth_m = torch.where(used, depth_m_B1HW.flatten(1).double(), 1.0)
            error, wrong = error / depth_m, wrong / depth_m
        return LossResult(
            error_sum=torch.where(used, error, 0.0).sum(),
            direction_sum=torch.where(used, wrong, 0.0).sum(),
            num_valid=used.sum(),
            num_degenerate=degenerate.sum(),
            num_flat=flat.sum(),
            num_negative=(~degenerate & (covariance < 0)).sum(),
        )


def normals_loss(
    pred_B3HW: torch.Tensor, normals_B3HW: torch.Tensor, valid_B1HW: torch.Tensor
) -> LossResult:
    """Angles in radians between predicted and true normals, summed over the valid pixels.

    The angle is ``atan2(|a x b|, a . b)``: equal to the arc cosine, with a finite gradient at 0 and
    180 degrees too. A zero prediction counts as 90 degrees and gets no gradient.

    Args:
        pred_B3HW: decoded vectors of any length.
        normals_B3HW: unit vectors, the zero vector where invalid, in the prediction's axes.
        valid_B1HW: bool; a pixel also needs a non-zero target.

    Raises:
        ValueError: the shapes do not fit together.
    """
    mask_shape = (pred_B3HW.shape[0], 1, *pred_B3HW.shape[2:])
    if (
        pred_B3HW.shape != normals_B3HW.shape
        or pred_B3HW.shape[1] != 3
        or valid_B1HW.shape != mask_shape
    ):
        raise ValueError(
            "normals must be [B, 3, H, W] with a mask [B, 1, H, W]: got "
            f"{tuple(pred_B3HW.shape)}, {tuple(normals_B3HW.shape)}, {tuple(valid_B1HW.shape)}"
        )
    with torch.autocast(pred_B3HW.device.type, enabled=False):
        dtype = torch.promote_types(pred_B3HW.dtype, torch.float32)
        b = normals_B3HW.to(dtype)
        length = torch.linalg.vector_norm(b, dim=1, keepdim=True)
        used = valid_B1HW.bool() & (length > MIN_NORMAL_LENGTH)
        a = torch.where(used, pred_B3HW.to(dtype), 0.0)
        b = torch.where(used, b, 0.0)
        # The published 1e-5 bounds the gradient of very short vectors; the angle stays.
        a = a / (torch.linalg.vector_norm(a, dim=1, keepdim=True) + 1e-5)
        sine = torch.linalg.vector_norm(torch.linalg.cross(a, b, dim=1), dim=1, keepdim=True)
        cosine = (a * b).sum(dim=1, keepdim=True)
        nothing = (sine == 0) & (cosine == 0)
        angle = torch.atan2(sine, torch.where(nothing, 1.0, cosine))
        angle = angle + torch.where(nothing & used, math.pi / 2, 0.0)
        used = used.flatten(1)
        none = torch.zeros((), dtype=torch.int64, device=used.device)
        return LossResult(
            error_sum=torch.where(used, angle.flatten(1), 0.0).double().sum(),
            direction_sum=none.double(),
            num_valid=used.sum(),
            num_degenerate=(~used.any(dim=1)).sum(),
            num_flat=none,
            num_negative=none,
        )
