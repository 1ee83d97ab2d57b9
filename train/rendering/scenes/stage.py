"""A scene while it is built: what stands where, and from where a camera may look at it.

Knows nothing of rooms or streets; those fill a `Stage`. World axes: y up, metres.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from e2e_deploy.train.data.sample import Camera
from e2e_deploy.train.rendering.scenes.props import Part, Prop

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Rng = np.random.Generator

_CANDIDATES = 10
_CLEARANCE_M = 0.3


@dataclass(frozen=True)
class SceneCamera:
    """A pinhole camera with square pixels and its principal point at the image centre.

    Attributes:
        position: metres, world.
        rotation_33: float64 `[3, 3]`; its columns are the camera's right, up and back in the world.
        fov_x_deg: horizontal field of view, degrees.
    """

    position: tuple[float, float, float]
    rotation_33: F64
    fov_x_deg: float

    @classmethod
    def looking_at(
        cls, position: npt.ArrayLike, target: npt.ArrayLike, fov_x_deg: float, roll_deg: float = 0.0
    ) -> SceneCamera:
        """A camera at ``position`` that looks at ``target``, turned by ``roll_deg`` about its axis."""
        eye = np.asarray(position, np.float64)
        back = eye - np.asarray(target, np.float64)
        back /= np.linalg.norm(back)
        right = np.cross([0.0, 1.0, 0.0], back)
        right /= np.linalg.norm(right)
        up = np.cross(back, right)
        c, s = np.cos(np.radians(roll_deg)), np.sin(np.radians(roll_deg))
        rotation = np.stack([c * right + s * up, c * up - s * right, back], axis=1)
        return cls((float(eye[0]), float(eye[1]), float(eye[2])), rotation, float(fov_x_deg))

    def intrinsics(self, size_hw: tuple[int, int]) -> Camera:
        """Focal lengths and principal point in pixels of a picture of ``size_hw``."""
        height, width = size_hw
        focal = float(width / 2 / np.tan(np.radians(self.fov_x_deg) / 2))
        return Camera(fx=focal, fy=focal, cx=(width - 1) / 2, cy=(height - 1) / 2)


@dataclass
class Stage:
    """A scene while it is built.

    Attributes:
        low, high: opposite corners of the box a camera may be in, metres.
        sky: latitude-longitude radiance, linear RGB float32 `[H, W, 3]`.
        close_up: probability that the cameras look at one prop from near by.
        parts: every mesh with its material.
        props: the parts that stand in the way of cameras and other props.
        subject: the prop that every camera looks at, from the side of +z; None where cameras stand anywhere.
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    sky: F32
    close_up: float
    parts: list[Part] = field(default_factory=list)
    props: list[Prop] = field(default_factory=list)
    subject: Prop | None = None

    def put(self, prop: Prop) -> None:
        """Adds a prop as it is placed."""
        self.props.append(prop)
        self.parts += prop.parts

    def is_free(self, prop: Prop, gap_m: float = 0.05) -> bool:
        """Whether the prop's bounding box touches no other prop's, seen from above."""
        low, high = prop.bounds
        for other in self.props:
            other_low, other_high = other.bounds
            apart = (low > other_high + gap_m) | (high < other_low - gap_m)
            if not (apart[0] or apart[2]):
                return False
        return True

    def cameras(self, rng: Rng) -> tuple[SceneCamera, ...]:
        """Candidate views: overviews from free places, and close-ups of single props."""
        boxes = [mesh.bounds for prop in self.props for mesh, _ in prop.parts]
        box_low = np.array([b[0] for b in boxes]).reshape(-1, 3) - _CLEARANCE_M
        box_high = np.array([b[1] for b in boxes]).reshape(-1, 3) + _CLEARANCE_M
        low, high = np.asarray(self.low), np.asarray(self.high)
        near = rng.random() < self.close_up
        views: list[SceneCamera] = []
        for _ in range(60):
            subject = self.props[int(rng.integers(len(self.props)))]
            target = np.mean(subject.bounds, axis=0) + rng.normal(0, 0.15, 3)
            eye, fov_deg = rng.uniform(low, high), None
            if self.subject is not None:
                target, eye, fov_deg = _portrait(rng, self.subject)
            elif near:
                reach = float(np.ptp(np.asarray(subject.bounds), axis=0).max())
                yaw, tilt = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.7)
                away = [np.cos(tilt) * np.sin(yaw), np.sin(tilt), np.cos(tilt) * np.cos(yaw)]
                eye = target + rng.uniform(0.8, 1.8) * max(reach, 0.5) * np.asarray(away)
            else:
                target = target * 0.7 + rng.uniform(low, high) * 0.3
            level = np.hypot(*(target - eye)[[0, 2]])
            inside_a_box = ((eye > box_low) & (eye < box_high)).all(axis=1).any()
            outside = (eye < low).any() or (eye > high).any()
            if inside_a_box or outside or level < 0.4:
                continue
            views.append(
                SceneCamera.looking_at(
                    eye, target, fov_deg or rng.uniform(40, 80), float(rng.normal(0, 2))
                )
            )
            if len(views) == _CANDIDATES:
                break
        corner = SceneCamera.looking_at(high - 0.1 * (high - low), (low + high) / 2, 70.0)
        return tuple(views) or (corner,)


def _portrait(rng: Rng, subject: Prop) -> tuple[F64, F64, float]:
    """Target, place and field of view of a camera before ``subject``, which fills half of the picture or more."""
    low, high = subject.bounds
    centre, extent = (low + high) / 2, high - low
    half = 0.5 * max(0.8 * float(np.hypot(extent[0], extent[2])), 1.2 * float(extent[1]))
    fov_deg = float(rng.choice([rng.uniform(25, 45), rng.uniform(45, 75)]))
    away_m = half / (np.tan(np.radians(fov_deg) / 2) * rng.uniform(0.55, 1.3)) + 0.3 * half
    yaw = float(np.clip(rng.normal(0, 0.55), -1.2, 1.2))
    tilt = rng.uniform(-0.05, 0.35) if rng.random() < 0.7 else rng.uniform(0.35, 1.2)
    away = np.array([np.cos(tilt) * np.sin(yaw), np.sin(tilt), np.cos(tilt) * np.cos(yaw)])
    eye = centre + away_m * away
    eye[1] = max(eye[1], 0.12)
    return centre + rng.normal(0, 0.2, 3) * half, eye, fov_deg
