"""Terms of a loss against a truth in the prediction's own range, [-1, 1]: what GenPercept trains with, and MiDaS.

Every function gives a sum over the valid pixels, float64 and connected to the prediction's graph; divided by their
number it is the published mean. Knows: masks, fits. Does not know: weights, where the truth comes from, the step.

GenPercept (arXiv 2403.06090) adds mean squared error, 0.5 times the scale-and-shift-invariant error and twice the
gradient error, on depth and disparity in [-1, 1] shifted to [1, 3]. MiDaS: arXiv 1907.01341, section 5.

B images, C channels, H W pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LIFT = 2.0
"""Added to prediction and truth before a fit: a ratio of medians needs positive numbers."""

MIN_STD = 1e-6
"""A prediction or a truth that varies less than this is flat: there is no scale to fit, and the gradient through the
fit grows with 1 / std."""

EXACT_COSINE = 1 - 1e-7
"""Above it, or below its negative, the arc cosine has no usable gradient; GenPercept leaves such pixels out."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Of prediction x and truth y over the valid pixels of every image; [B, 1], the two arrays [B, H W]; float64."""

    x_centred: Tensor
    """Zero where invalid, as the next."""
    y_centred: Tensor
    x_mean: Tensor
    y_mean: Tensor
    x_variance: Tensor
    y_variance: Tensor
    covariance: Tensor

    @property
    def is_degenerate(self) -> Tensor:
        """Images whose truth teaches nothing: no or one valid pixel, the same everywhere. NaN is not hidden as one."""
        return self.y_variance <= MIN_STD**2


def moments(x_B1HW: Tensor, y_B1HW: Tensor, valid_B1HW: Tensor) -> Moments:
    """Means and central moments; what stands at invalid pixels is ignored."""
    valid = valid_B1HW.flatten(1).bool()
    # float64 costs little on one channel and removes every question of cancellation.
    x = torch.where(valid, x_B1HW.flatten(1).double(), 0.0)
    y = torch.where(valid, y_B1HW.flatten(1).double(), 0.0)
    count = valid.sum(dim=1, keepdim=True).clamp(min=1)
    x_mean, y_mean = x.sum(1, keepdim=True) / count, y.sum(1, keepdim=True) / count
    x_centred = torch.where(valid, x - x_mean, 0.0)
    y_centred = torch.where(valid, y - y_mean, 0.0)
    return Moments(
        x_centred,
        y_centred,
        x_mean,
        y_mean,
        x_centred.square().sum(1, keepdim=True) / count,
        y_centred.square().sum(1, keepdim=True) / count,
        (x_centred * y_centred).sum(1, keepdim=True) / count,
    )


def squared_sum(x_BCHW: Tensor, y_BCHW: Tensor, valid_B1HW: Tensor) -> Tensor:
    """Squared errors, their mean over the channels of a pixel."""
    return _summed((_known(x_BCHW, valid_B1HW) - _known(y_BCHW, valid_B1HW)).square())


def absolute_sum(x_BCHW: Tensor, y_BCHW: Tensor, valid_B1HW: Tensor) -> Tensor:
    """Absolute errors, their mean over the channels of a pixel."""
    return _summed((_known(x_BCHW, valid_B1HW) - _known(y_BCHW, valid_B1HW)).abs())


def invariant_sum(x_B1HW: Tensor, y_B1HW: Tensor, valid_B1HW: Tensor) -> Tensor:
    """Absolute errors after ``aligned``."""
    return absolute_sum(aligned(x_B1HW, y_B1HW, valid_B1HW), y_B1HW, valid_B1HW)


def aligned(x_B1HW: Tensor, y_B1HW: Tensor, valid_B1HW: Tensor) -> Tensor:
    """Every image of ``x``, in [-1, 1], brought near its truth; float64, gradients flow through the fit.

    By the scale and shift of least squares where that scale is positive. Where it is not, or the prediction is flat,
    by the ratio of the medians, both arrays lifted to [1, 3] before, so that near and far are never exchanged. The
    median of an even number of pixels is the lower one (as of torch).
    """
    found = moments(x_B1HW, y_B1HW, valid_B1HW)
    is_upright = (found.x_variance > MIN_STD**2) & (found.covariance > 0)
    scale = found.covariance / torch.where(is_upright, found.x_variance, 1.0)
    shift = found.y_mean - scale * found.x_mean
    ratio = _median(y_B1HW, valid_B1HW) / _median(x_B1HW, valid_B1HW)
    per_image = (-1, 1, 1, 1)
    x = _known(x_B1HW, valid_B1HW).double()
    fitted = scale.view(per_image) * x + shift.view(per_image)
    scaled = ratio.view(per_image) * (x + LIFT) - LIFT
    return torch.where(is_upright.view(per_image), fitted, scaled)


def gradient_sum(x_BCHW: Tensor, y_BCHW: Tensor, valid_B1HW: Tensor, *, scales: int = 1) -> Tensor:
    """Differences of the error between neighbours, to the right and below, where both are valid.

    With more ``scales`` also on every second, fourth, ... row and column (MiDaS has 4), where a pixel stands for 4,
    16, ... of them: where all are valid, that is MiDaS's sum of a mean for every scale.
    """
    error = (_known(x_BCHW, valid_B1HW) - _known(y_BCHW, valid_B1HW)).double()
    valid = valid_B1HW.bool()
    total = 0.0 * error.sum()
    for scale in range(scales):
        step = 2**scale
        coarse, known = error[..., ::step, ::step], valid[..., ::step, ::step]
        right = (coarse[..., 1:] - coarse[..., :-1]).abs() * (known[..., 1:] & known[..., :-1])
        below = (coarse[..., 1:, :] - coarse[..., :-1, :]).abs()
        below = below * (known[..., 1:, :] & known[..., :-1, :])
        total = total + step**2 * (_summed(right) + _summed(below))
    return total


def open_angle_sum(
    x_B3HW: Tensor, normals_B3HW: Tensor, valid_B1HW: Tensor
) -> tuple[Tensor, Tensor]:
    """Angles in radians by the arc cosine, and the pixels that count: those within 0.03 degrees of 0 or 180 do not."""
    valid = valid_B1HW.bool()
    x = _known(x_B3HW, valid_B1HW).double()
    cosine = torch.cosine_similarity(x, normals_B3HW.double(), dim=1)[:, None]
    counts = valid & ~(cosine.detach().abs() >= EXACT_COSINE)
    return torch.where(counts, torch.arccos(torch.where(counts, cosine, 0.0)), 0.0).sum(), counts


def _known(x: Tensor, valid_B1HW: Tensor) -> Tensor:
    """``x``, zero where invalid, so that no NaN there comes through a gradient."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.where(valid_B1HW.bool(), x.to(dtype), 0.0)


def _summed(per_value_BCHW: Tensor) -> Tensor:
    return per_value_BCHW.double().mean(dim=1).sum()


def _median(x_B1HW: Tensor, valid_B1HW: Tensor) -> Tensor:
    """Of the lifted valid pixels of every image, [B, 1]; 1 where there are none."""
    lifted = torch.where(valid_B1HW.bool(), x_B1HW.double() + LIFT, torch.nan).flatten(1)
    median = lifted.nanmedian(dim=1, keepdim=True).values
    return torch.where(median.isfinite(), median, 1.0)
