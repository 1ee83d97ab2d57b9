"""Task losses on decoded predictions: scale-and-shift-invariant depth, angular normals, both.

Knows: the loss of one homogeneous micro-batch, masks, degenerate images.
Does not know: the network, the decoder's scaling, accumulation, or what the optimizer does.

B = images, H, W = pixels. Formulas: arXiv 2409.11355, section 4 and supplement; the published
code's disconnected zero for an empty batch and its cancelling fp32 determinant are avoided.
"""

import math
from dataclasses import dataclass

import torch

MIN_STD = 1e-6
"""A prediction (in [-1, 1]) or a target (in metres) that varies less than this is flat: there is no
scale to fit, and the gradient through the fit grows with 1 / std."""

MIN_NORMAL_LENGTH = 0.5
"""Target normals are unit vectors, or zero where invalid; the threshold tells the two apart."""

DEPTH_WEIGHT, NORMALS_WEIGHT = 0.5, 1.0
"""Weights of the joint loss (paper, appendix B: about equal magnitudes)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossResult:
    """The loss of a micro-batch and what it was computed from; the counts need no device sync."""

    loss: torch.Tensor
    """Scalar, at least float32, always connected to the prediction's graph."""
    num_valid: torch.Tensor
    """int64 scalar: pixels the mean was taken over."""
    num_degenerate: torch.Tensor
    """int64 scalar: images that contribute zero (nothing valid, flat target, flat prediction)."""


def depth_loss(
    pred_B1HW: torch.Tensor, depth_m_B1HW: torch.Tensor, valid_B1HW: torch.Tensor
) -> LossResult:
    """Mean absolute error in metres after the best scale and shift of every image.

    Per image, least squares over the valid pixels maps the PREDICTION onto the METRIC depth; the
    gradient flows through scale and shift. One mean is taken over all valid pixels of the
    micro-batch. A NaN prediction gives a NaN loss: the caller has to see it.

    Args:
        pred_B1HW: predicted depth in [-1, 1] or [0, 1]; the loss ignores affine changes of it.
        depth_m_B1HW: metres; whatever stands at invalid pixels is ignored.
        valid_B1HW: bool.

    Raises:
        ValueError: the three shapes differ, or are not [B, 1, H, W].
    """
    if not (pred_B1HW.shape == depth_m_B1HW.shape == valid_B1HW.shape) or pred_B1HW.ndim != 4:
        raise ValueError(
            "prediction, depth and mask must share one shape [B, 1, H, W]: got "
            f"{tuple(pred_B1HW.shape)}, {tuple(depth_m_B1HW.shape)}, {tuple(valid_B1HW.shape)}"
        )
    with torch.autocast(pred_B1HW.device.type, enabled=False):
        valid = valid_B1HW.flatten(1).bool()
        # float64 costs little on one channel and removes every question of cancellation.
        x = torch.where(valid, pred_B1HW.flatten(1).double(), 0.0)
        y = torch.where(valid, depth_m_B1HW.flatten(1).double(), 0.0)
        count = valid.sum(dim=1, keepdim=True).clamp(min=1)
        x_mean, y_mean = x.sum(1, keepdim=True) / count, y.sum(1, keepdim=True) / count
        x_centred = torch.where(valid, x - x_mean, 0.0)
        y_centred = torch.where(valid, y - y_mean, 0.0)
        x_variance = x_centred.square().sum(1, keepdim=True) / count
        y_variance = y_centred.square().sum(1, keepdim=True) / count
        # NaN compares false here, so it is not hidden as degenerate.
        degenerate = (x_variance <= MIN_STD**2) | (y_variance <= MIN_STD**2)
        scale = (x_centred * y_centred).sum(1, keepdim=True) / count
        scale = scale / torch.where(degenerate, 1.0, x_variance)
        used = valid & ~degenerate
        # scale * x + shift - y, with shift = y_mean - scale * x_mean.
        error = torch.where(used, scale * x_centred - y_centred, 0.0).abs()
        return _mean_over(error, used, degenerate, pred_B1HW.dtype)


def normals_loss(
    pred_B3HW: torch.Tensor, normals_B3HW: torch.Tensor, valid_B1HW: torch.Tensor
) -> LossResult:
    """Mean angle in radians between predicted and true normals over the valid pixels.

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
        degenerate = ~used.any(dim=1, keepdim=True)
        error = torch.where(used, angle.flatten(1), 0.0)
        return _mean_over(error, used, degenerate, pred_B3HW.dtype)


def joint_loss(
    pred_depth_B1HW: torch.Tensor,
    pred_normals_B3HW: torch.Tensor,
    depth_m_B1HW: torch.Tensor,
    normals_B3HW: torch.Tensor,
    valid_B1HW: torch.Tensor,
) -> LossResult:
    """``0.5 * depth_loss + 1.0 * normals_loss``; the counts are the sums of both.

    Raises:
        ValueError: as in ``depth_loss`` and ``normals_loss``.
    """
    depth = depth_loss(pred_depth_B1HW, depth_m_B1HW, valid_B1HW)
    normals = normals_loss(pred_normals_B3HW, normals_B3HW, valid_B1HW)
    return LossResult(
        loss=DEPTH_WEIGHT * depth.loss + NORMALS_WEIGHT * normals.loss,
        num_valid=depth.num_valid + normals.num_valid,
        num_degenerate=depth.num_degenerate + normals.num_degenerate,
    )


def _mean_over(
    error: torch.Tensor, used: torch.Tensor, degenerate: torch.Tensor, dtype: torch.dtype
) -> LossResult:
    num_valid = used.sum()
    mean = error.sum() / num_valid.clamp(min=1)
    return LossResult(
        loss=mean.to(torch.promote_types(dtype, torch.float32)),
        num_valid=num_valid,
        num_degenerate=degenerate.sum(),
    )
