"""Results as colours for people. Display only: nothing here changes a result.

Near is warm in every colour map. Depth is stretched to a display range that follows the
pictures slowly, because stretching each frame by itself makes a video flicker.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import UsageError
from e2e_deploy.kinds import Kind
from e2e_deploy.names import COLORMAPS, Colormap
from e2e_deploy.system.opencv import cv2
from e2e_deploy.system.text import clean

Rgb = npt.NDArray[np.uint8]

# ColorBrewer's 11-class Spectral (Cynthia Brewer, Apache-2.0), the map Marigold's figures use; red is near.
_SPECTRAL = (
    (158, 1, 66),
    (213, 62, 79),
    (244, 109, 67),
    (253, 174, 97),
    (254, 224, 139),
    (255, 255, 191),
    (230, 245, 152),
    (171, 221, 164),
    (102, 194, 165),
    (50, 136, 189),
    (94, 79, 162),
)
_OPENCV: dict[Colormap, int] = {"inferno": cv2.COLORMAP_INFERNO, "turbo": cv2.COLORMAP_TURBO}
UNKNOWN_RGB = (128, 128, 128)  # in no colour map, and as a normal the zero vector


@cache
def lookup_table(name: Colormap) -> Rgb:
    """The colour map ``name`` as uint8 RGB [256, 3]; entry 0 is near.

    Raises:
        UsageError: unknown name.
    """
    if name == "spectral":
        stops = np.linspace(0, 255, len(_SPECTRAL))
        columns = [
            np.interp(np.arange(256), stops, channel) for channel in zip(*_SPECTRAL, strict=True)
        ]
        table: Rgb = np.rint(np.stack(columns, axis=1)).astype(np.uint8)
        return table
    if name not in _OPENCV:
        raise UsageError(f"unknown colour map {name!r}; the colour maps are {', '.join(COLORMAPS)}")
    ramp = np.arange(255, -1, -1, dtype=np.uint8)[
        :, None
    ]  # reversed: OpenCV's maps have the warm end last
    return np.ascontiguousarray(cv2.applyColorMap(ramp, _OPENCV[name])[:, 0, ::-1], dtype=np.uint8)


def colour_depth(depth: npt.NDArray[np.float32], name: Colormap, low: float, high: float) -> Rgb:
    """Depth [H, W] as RGB [H, W, 3]; ``low`` maps to the near end, ``high`` to the far; NaN and infinity are grey."""
    span = max(high - low, 1e-6)
    known = np.isfinite(depth)
    scaled = np.where(known, depth - low, 0.0) * (255.0 / span)
    coloured: Rgb = lookup_table(name)[np.clip(scaled, 0, 255).astype(np.uint8)]
    coloured[~known] = UNKNOWN_RGB
    return coloured


def colour_normals(normals: npt.NDArray[np.float32]) -> Rgb:
    """Normals [H, W, 3] as RGB: (n + 1) / 2, the usual violet-blue for surfaces that face the viewer; NaN is grey."""
    known: npt.NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(normals), axis=2)
    scaled = (np.where(known[..., None], normals, 0.0) + 1.0) * 127.5
    coloured: Rgb = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
    coloured[~known] = UNKNOWN_RGB
    return coloured


def colour_picture(picture: npt.NDArray[np.float32], *, is_linear: bool = False) -> Rgb:
    """Values [H, W] or [H, W, 3] in [0, 1] as RGB [H, W, 3]; linear ones through sRGB's curve; NaN is grey.

    The curve is IEC 61966-2-1's.
    """
    rgb = np.broadcast_to(picture[..., None], (*picture.shape, 3)) if picture.ndim == 2 else picture
    known: npt.NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(rgb), axis=2)
    shown = np.clip(np.where(known[..., None], rgb, 0.0), 0.0, 1.0)
    if is_linear:
        curve = 1.055 * np.maximum(shown, 0.0031308) ** (1 / 2.4) - 0.055
        shown = np.where(shown <= 0.0031308, 12.92 * shown, curve)
    coloured: Rgb = np.rint(shown * 255.0).astype(np.uint8)
    coloured[~known] = UNKNOWN_RGB
    return coloured


def colour_result(
    kind: Kind, result: npt.NDArray[np.float32], name: Colormap, shown: tuple[float, float]
) -> Rgb:
    """A result as RGB [H, W, 3]: distances in a colour map, vectors by their directions, pictures as they are.

    Args:
        kind: of the result.
        result: [H, W] or [H, W, 3].
        name: of the colour map; near has the same colour in depth as in disparity.
        shown: (low, high), the values at the map's ends.
    """
    if kind.form == "vectors":
        return colour_normals(result)
    if kind.form == "picture":
        return colour_picture(result, is_linear=kind.is_linear)
    low, high = shown
    return (
        colour_depth(-result, name, -high, -low)
        if kind.power < 0
        else colour_depth(result, name, low, high)
    )


class DisplayRange:
    """The 2nd to 98th percentile of a distance, following slowly from frame to frame.

    ``follow`` is the share of the way it moves per frame; 1 stretches each frame by itself.
    """

    def __init__(self, follow: float = 0.1) -> None:
        self.follow = follow
        self._range: tuple[float, float] | None = None

    def update(self, depth: npt.NDArray[np.float32]) -> tuple[float, float]:
        """Move toward ``depth`` [H, W] and return (low, high)."""
        step = max(
            1, int(np.sqrt(depth.size / 20_000))
        )  # 20 000 pixels are plenty for two percentiles
        sample = depth[::step, ::step]
        sample = sample[np.isfinite(sample)]  # one NaN would otherwise stay in the range for good
        if sample.size == 0:
            return self._range or (0.0, 1.0)
        now = [float(p) for p in np.percentile(sample, (2.0, 98.0))]
        low, high = self._range or now
        self._range = (low + self.follow * (now[0] - low), high + self.follow * (now[1] - high))
        return self._range


def write_note(picture: Rgb, note: str) -> Rgb:
    """The picture with ``note`` in its lower left corner; unchanged when there is nothing to say."""
    if not note:
        return picture
    note = clean(note, 200)  # OpenCV reads beyond a lone surrogate
    marked = picture.copy()
    scale = max(0.4, picture.shape[0] / 900)
    at = (int(8 * scale), picture.shape[0] - int(10 * scale))
    for colour, thickness in (((0, 0, 0), 4), ((255, 255, 255), 1)):
        cv2.putText(
            marked, note, at, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thickness, cv2.LINE_AA
        )
    return marked
