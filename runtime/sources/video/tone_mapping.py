"""HDR and wide-gamut colours as SDR: the curves of the standards, and their product as a table that FFmpeg applies.

    coded R'G'B' -> light on a display in cd/m2 -> highlights rolled off -> BT.709 primaries -> sRGB

Reference white of HDR is 203 cd/m2 (ITU-R BT.2408), which is what SDR white shows; middle grey keeps its value.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

WHITE_NITS = 203.0
PQ_NITS = 10000.0
HLG_NITS = 1000.0  # nominal peak of a display for HLG, whose system gamma is then 1.2
TYPICAL_PEAK_NITS = 1000.0  # of PQ without mastering metadata
NODES = 33  # a side of the table

PQ, HLG, SDR = "PQ", "HLG", "BT.2020"

# BT.2020 to BT.709, linear light (ITU-R BT.2087, table 4)
BT2020_TO_BT709 = np.array(
    [
        [1.660491, -0.587641, -0.072850],
        [-0.124550, 1.132900, -0.008349],
        [-0.018151, -0.100579, 1.118730],
    ]
)


def pq_to_nits(signal: Float64) -> Float64:
    """Coded PQ in [0, 1] as cd/m2: the EOTF of ITU-R BT.2100, table 4."""
    root = np.clip(signal, 0, 1) ** (32 / 2523)
    linear = np.maximum(root - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * root)
    return np.asarray(PQ_NITS * linear ** (8192 / 1305))


def nits_to_pq(nits: Float64) -> Float64:
    """The inverse of pq_to_nits."""
    power = (np.clip(nits, 0, PQ_NITS) / PQ_NITS) ** (1305 / 8192)
    return np.asarray(
        ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)
    )


def hlg_to_nits(signal_3: Float64) -> Float64:
    """Coded HLG R'G'B' [..., 3] in [0, 1] as cd/m2 on a display of HLG_NITS: ITU-R BT.2100, table 5."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal_3 <= 0.5, signal_3**2 / 3, (np.exp((signal_3 - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593])
    return np.asarray(HLG_NITS * luminance[..., None] ** 0.2 * scene)


def roll_off(nits: Float64, peak_nits: float) -> Float64:
    """cd/m2 up to ``peak_nits`` brought below WHITE_NITS, unchanged in the dark: the EETF of ITU-R BT.2390, 5.4.1."""
    if peak_nits <= WHITE_NITS:
        return nits
    top = float(nits_to_pq(np.array(peak_nits)))
    e1 = np.minimum(nits_to_pq(nits) / top, 1)
    highest = float(nits_to_pq(np.array(WHITE_NITS))) / top
    knee = 1.5 * highest - 0.5
    t = (e1 - knee) / (1 - knee)
    spline = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (-2 * t**3 + 3 * t**2) * highest
    )
    return pq_to_nits(np.where(e1 < knee, e1, spline) * top)


def to_sdr(signal_3: Float64, kind: str, peak_nits: float, *, wide: bool = True) -> Float64:
    """Coded R'G'B' as SDR R'G'B' of BT.709 primaries.

    Args:
        signal_3: float64 [..., 3] in [0, 1], full range.
        kind: PQ, HLG, or SDR, whose curve is the 2.4 power of ITU-R BT.1886 and stays.
        peak_nits: brightest value of the content (PQ alone).
        wide: whether the primaries are those of BT.2020.

    Returns:
        float64 [..., 3] in [0, 1]; what BT.709 cannot show is clipped to it.
    """
    if kind == SDR:
        linear = signal_3**2.4
    elif kind == HLG:
        linear = roll_off(hlg_to_nits(signal_3), HLG_NITS) / WHITE_NITS
    else:
        linear = roll_off(pq_to_nits(signal_3), peak_nits) / WHITE_NITS
    linear = np.clip(linear @ BT2020_TO_BT709.T if wide else linear, 0, 1)
    if kind == SDR:
        return np.asarray(linear ** (1 / 2.4))
    # IEC 61966-2-1: pictures, which the models were trained on, are coded so
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def write_cube(path: Path, kind: str, peak_nits: float, *, wide: bool = True) -> None:
    """Write to_sdr as a .cube file of NODES a side, for FFmpeg's ``lut3d``; red changes fastest."""
    axis = np.linspace(0, 1, NODES)
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")
    table = to_sdr(np.stack([red, green, blue], axis=-1), kind, peak_nits, wide=wide)
    np.savetxt(path, table.reshape(-1, 3), fmt="%.6f", header=f"LUT_3D_SIZE {NODES}", comments="")
