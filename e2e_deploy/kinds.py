"""What the numbers of a result are, a row a kind; knows no model and no backend."""

from dataclasses import dataclass
from typing import Literal

from e2e_deploy.names import ResultKind

Form = Literal["distance", "vectors", "picture"]
"""distance: how far a pixel is, in some monotone scale. vectors: unit vectors. picture: values to look at."""


@dataclass(frozen=True)
class Kind:
    """What one result is, in words that go into manifests and sidecars."""

    name: ResultKind
    form: Form
    channels: int
    """Channels of the result; 1 means a plain [H, W] map."""
    value_range: tuple[float, float]
    meaning: str
    units: str
    power: float = 0.0
    """Of a distance: an affine map of the value is depth to this power; 0 for everything else."""
    is_linear: bool = False
    """Of a picture: proportional to light, and not as sRGB has it."""

    @property
    def output(self) -> str:
        """Its name as an output of a graph, an engine and in file names."""
        return self.name.replace("-", "_")

    def result_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Shape of one result without the batch axis: [H, W] or [H, W, 3]."""
        return (height, width) if self.channels == 1 else (height, width, self.channels)


_AFFINE = "none: scale and shift are unknown (not metric)"
_SHARE = "none: shares from 0 to 1"

KINDS: dict[ResultKind, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            *("depth", "distance", 1, (0.0, 1.0)),
            "affine-invariant depth, 0 = near, 1 = far",
            _AFFINE,
            power=1.0,
        ),
        Kind(
            *("disparity", "distance", 1, (0.0, 1.0)),
            "affine-invariant disparity, 0 = far, 1 = near",
            _AFFINE,
            power=-1.0,
        ),
        Kind(
            *("sqrt-disparity", "distance", 1, (0.0, 1.0)),
            "affine-invariant square root of disparity, 0 = far, 1 = near",
            _AFFINE,
            power=-0.5,
        ),
        Kind(
            *("normals", "vectors", 3, (-1.0, 1.0)),
            "unit surface normals, x right, y up, z toward the viewer",
            "none: unit vectors",
        ),
        Kind("mask", "picture", 3, (0.0, 1.0), "segments, each in a colour of its own", _SHARE),
        Kind("matte", "picture", 1, (0.0, 1.0), "opacity of the foreground", _SHARE),
        Kind("albedo", "picture", 3, (0.0, 1.0), "albedo, RGB as in sRGB", _SHARE),
        Kind(
            "material", "picture", 3, (0.0, 1.0), "roughness, metallicity, and no meaning", _SHARE
        ),
        Kind(
            *("linear-albedo", "picture", 3, (0.0, 1.0)),
            "albedo, linear RGB",
            _SHARE,
            is_linear=True,
        ),
        Kind(
            *("shading", "picture", 3, (0.0, 1.0)),
            "diffuse shading, linear RGB, scale unknown",
            _SHARE,
            is_linear=True,
        ),
        Kind(
            *("residual", "picture", 3, (0.0, 1.0)),
            "light that is not diffuse, linear RGB, scale unknown",
            _SHARE,
            is_linear=True,
        ),
    )
}
