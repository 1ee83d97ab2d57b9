"""How far a backend may be from the fp32 PyTorch reference: one table, read by tests and by ``verify``.

A limit is loosened only with the measured reason beside it. Limits are for weights that predict depth: random ones of
SD2's size are outside in half precision on any device that rounds (99.5 and 92 % of pixels within 2 %), because they
amplify what is below a camera's noise (docs/conventions.md; benchmarks/accuracy/half_precision.py).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from e2e_deploy.kinds import KINDS
from e2e_deploy.metrics import aligned_abs_rel, angular_error_deg, psnr, share_within
from e2e_deploy.names import BACKENDS, ResultKind

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Bounds on a Parity; None means that the quantity is reported and not judged."""

    relative: float | None = None
    abs_rel: float | None = None
    share_within_2pct: float | None = None
    mean_angle_deg: float | None = None
    mean_abs: float | None = None


_FP32 = Limit(relative=1e-4)
_FP16 = Limit(abs_rel=0.005, share_within_2pct=0.999, mean_angle_deg=0.5, mean_abs=0.0025)
_BF16 = Limit(
    abs_rel=0.02, share_within_2pct=0.996, mean_angle_deg=2.0, mean_abs=0.01
)  # four times fp16: 8 bits instead of 11

_BY_PRECISION = {"fp32": _FP32, "fp16": _FP16, "bf16": _BF16}
LIMITS: dict[tuple[str, str], Limit] = {
    (backend, precision): limit
    for backend in map(str, BACKENDS)
    for precision, limit in _BY_PRECISION.items()
} | {
    # Eight bits are no excuse: who uses the depth does not care how it was computed.
    (backend, "int8"): _FP16
    for backend in ("onnxruntime", "openvino")
}


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Distance of one result from its reference.

    Attributes:
        max_abs: largest absolute difference.
        relative: relative error in the Euclidean norm, |result - reference| / |reference|. One wrong pixel in
            480x640 shows (0.03 gives 1e-4), and a normal that is made unit length from a vector near zero,
            which multiplies rounding a thousand times, does not decide alone.
        abs_rel: affine-aligned AbsRel (distances), else None.
        share_within_2pct: share of pixels within 2 % of the reference (distances), else None.
        mean_angle_deg: mean angle in degrees (normals), else None.
        mean_abs: mean absolute difference (pictures), else None.
        psnr_db: peak signal-to-noise ratio over the kind's range.
        finite: no NaN and no infinity.
    """

    max_abs: float
    relative: float
    abs_rel: float | None
    share_within_2pct: float | None
    mean_angle_deg: float | None
    psnr_db: float
    finite: bool
    mean_abs: float | None = None

    def breaks(self, limit: Limit) -> list[str]:
        """What is outside ``limit``, in words; empty when all is inside."""
        if not self.finite:
            return ["the result holds NaN or infinity"]
        found = []
        for name, value, bound in (
            ("relative error", self.relative, limit.relative),
            ("AbsRel", self.abs_rel, limit.abs_rel),
            ("mean angle", self.mean_angle_deg, limit.mean_angle_deg),
            ("mean difference", self.mean_abs, limit.mean_abs),
        ):
            if value is not None and bound is not None and not value < bound:  # NaN is outside
                found.append(f"{name} {value:.3g} is not below {bound:g}")
        share, least = self.share_within_2pct, limit.share_within_2pct
        if share is not None and least is not None and share < least:
            found.append(f"only {share:.2%} of pixels are within 2 %, not {least:.1%}")
        return found


def measure_parity(kind: ResultKind, candidate: Array, reference: Array) -> Parity:
    """Parity of a result with its reference.

    Args:
        kind: of both.
        candidate: the backend's result.
        reference: the fp32 PyTorch result, same shape.

    Raises:
        ValueError: the shapes differ.
    """
    if candidate.shape != reference.shape:
        raise ValueError(f"the result has shape {candidate.shape}, its reference {reference.shape}")
    nan = float("nan")
    if not np.isfinite(candidate).all():
        return Parity(
            max_abs=nan,
            relative=nan,
            abs_rel=None,
            share_within_2pct=None,
            mean_angle_deg=None,
            psnr_db=nan,
            finite=False,
        )
    difference = candidate.astype(np.float64) - reference
    max_abs = float(np.abs(difference).max())
    info = KINDS[kind]
    is_distance, low, high = info.form == "distance", *info.value_range
    everywhere = np.ones(reference.shape[:2], dtype=bool)
    return Parity(
        max_abs=max_abs,
        relative=float(np.linalg.norm(difference)) / max(float(np.linalg.norm(reference)), 1e-12),
        abs_rel=aligned_abs_rel(candidate, reference) if is_distance else None,
        share_within_2pct=share_within(candidate, reference) if is_distance else None,
        mean_angle_deg=float(np.nanmean(angular_error_deg(candidate, reference, everywhere)))
        if info.form == "vectors"
        else None,
        mean_abs=float(np.abs(difference).mean()) if info.form == "picture" else None,
        psnr_db=psnr(candidate, reference, peak=high - low),
        finite=True,
    )
