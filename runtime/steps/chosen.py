"""The steps that arguments of a run ask for, checked against each other, the bundle and the source."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy.typing as npt

from e2e_deploy.bundle.manifest import Manifest
from e2e_deploy.errors import UsageError
from e2e_deploy.kinds import Kind
from e2e_deploy.names import AXES, Axes, ResultKind
from e2e_deploy.runtime.camera.intrinsics import Intrinsics
from e2e_deploy.runtime.camera.lens import Camera, Lens
from e2e_deploy.runtime.ros.cameras import rays
from e2e_deploy.runtime.sources.source import Source
from e2e_deploy.runtime.steps.axes import optical
from e2e_deploy.runtime.steps.metric import (
    MIN_PLANE_INLIERS,
    as_points,
    metric,
    plane_points,
    read_points,
)
from e2e_deploy.runtime.steps.step import Step, of_output, steady
from e2e_deploy.system.text import clean


@dataclass(frozen=True)
class Chosen:
    """What is done to results between engine and sinks.

    Attributes:
        steady: keep the scale and shift of a video's distances.
        metric_points: file or [N, 3] of column, row, metres.
        camera_height_m: above flat ground.
        camera_pitch_deg: by which the camera looks down; None is 0.
        intrinsics: of the frames; None takes what the source says.
        axes: of normals; None are the camera's.
        has_points: a point cloud is written.
        takes_camera: what is written says where pixels look.
        takes_axes: numbers of normals go somewhere that has no axes of its own.

    Raises:
        UsageError: arguments that do not go together, or that are no points, height or pitch.
        InputError: a file of points that cannot be read.
    """

    steady: bool = False
    metric_points: str | Path | npt.ArrayLike | None = None
    camera_height_m: float | None = None
    camera_pitch_deg: float | None = None
    intrinsics: Intrinsics | None = None
    axes: Axes | None = None
    has_points: bool = False
    takes_camera: bool = False
    takes_axes: bool = True
    _points: npt.ArrayLike | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        height, camera = self.camera_height_m, self.intrinsics
        if self.metric_points is not None and height is not None:
            raise UsageError(
                "`metric_points` and `camera_height_m` are two ways to metres; give one"
            )
        if self.camera_pitch_deg is not None and height is None:
            raise UsageError("`camera_pitch_deg` needs `camera_height_m`; alone it has no effect")
        if height is not None and not 0 < height < math.inf:
            raise UsageError(f"`camera_height_m` is {height}; expected metres, more than 0")
        if not math.isfinite(self.camera_pitch_deg or 0.0):
            raise UsageError(f"`camera_pitch_deg` is {self.camera_pitch_deg}; expected degrees")
        if self.has_points and not self.is_metric:
            raise UsageError(
                "a point cloud (ply) needs metric depth, by `metric_points` or `camera_height_m`, and `intrinsics` "
                "where the source says none"
            )
        if camera is not None and height is None and not (self.has_points or self.takes_camera):
            raise UsageError(
                "`intrinsics` has no effect here: it is for `camera_height_m`, point clouds (ply), and logs and views "
                "that know cameras"
            )
        if self.axes not in (None, *AXES):
            raise UsageError(f"unknown `axes` {self.axes!r}; the axes are {', '.join(AXES)}")
        if self.axes is not None and not self.takes_axes:
            raise UsageError(
                f'`axes="{self.axes}"` has no effect here: colours show directions whatever the axes are, and normals '
                "in ROS's topics are optical"
            )
        points = self.metric_points
        if isinstance(points, str | Path):
            points = read_points(Path(points))
        elif points is not None:
            points = as_points(points)
        object.__setattr__(self, "_points", points)

    @property
    def is_metric(self) -> bool:
        """Whether depth becomes metres."""
        return self.metric_points is not None or self.camera_height_m is not None

    @property
    def files(self) -> list[Path]:
        """What is read."""
        points = self.metric_points
        return [Path(points)] if isinstance(points, str | Path) else []

    def camera_of(self, source: Source) -> Camera | None:
        """As the user says, else as the source does, with its lens; None where nobody does.

        Raises:
            UsageError: it is needed.
        """
        camera = self.intrinsics or self._camera_of(source)
        if camera is None and (self.camera_height_m is not None or self.has_points):
            what = "a point cloud (ply)" if self.has_points else "`camera_height_m`"
            why = f": {source.notes[-1]}" if source.notes else ""
            raise UsageError(
                f"{what} needs `intrinsics` fx,fy,cx,cy, and {source.name} says none{why}"
            )
        return camera

    def _camera_of(self, source: Source) -> Camera | None:
        known = source.camera
        if known is None or not any(known.d):
            return None if known is None else known.intrinsics
        if self.camera_height_m is None and not self.has_points:
            return known.intrinsics
        seen = rays(known)
        if seen is None:
            said = f"a lens of model {clean(known.distortion_model, 40)!r} cannot be undone"
            if (note := f"{said}: the camera is taken for one without") not in source.notes:
                source.notes.append(note)
            return known.intrinsics
        return Lens(seen)

    def _metric(self, camera: Camera | None, space: ResultKind) -> list[Step]:
        points, height = self._points, self.camera_height_m
        if points is not None:
            return [metric(lambda hw: points, space=space)]
        if height is None or camera is None:
            return []
        down = math.radians(self.camera_pitch_deg or 0.0)
        ground = (0.0, math.cos(down), math.sin(down))

        def plane(hw: tuple[int, int]) -> npt.ArrayLike:
            return plane_points(hw, camera, height, ground)

        return [metric(plane, space=space, min_inliers=MIN_PLANE_INLIERS)]

    def check(self, manifest: Manifest) -> None:
        """Raise a UsageError if none of the bundle's results is of a fitting kind."""
        forms, given = {kind.form for kind in manifest.kinds}, " and ".join(manifest.outputs)
        if self.steady and "distance" not in forms:
            raise UsageError(
                f"`steady` is for depth and disparity; {given} have no scale and shift that could change"
            )
        if self.is_metric and "distance" not in forms:
            raise UsageError(
                f"`metric_points` and `camera_height_m` are for depth and disparity, not for {given}"
            )
        if self.axes is not None and "vectors" not in forms:
            raise UsageError(f"`axes` is for normals; {given} has no directions")

    def open(self, source: Source, kinds: Sequence[Kind]) -> Sequence[Step]:
        """The steps for results of these kinds, in order; each has a state of its own.

        Raises:
            UsageError: steady depth of pictures; or a camera is needed that nobody tells.
        """
        camera = self.camera_of(source)
        if self.steady and not source.is_video:
            raise UsageError("`steady` is for videos and cameras; pictures have no order in time")
        if len(kinds) == 1:
            return self._steps(kinds[0], camera)
        return [
            of_output(kind.output, step) for kind in kinds for step in self._steps(kind, camera)
        ]

    def _steps(self, kind: Kind, camera: Camera | None) -> list[Step]:
        steps: list[Step] = []
        if kind.form == "distance" and self.steady:
            steps.append(steady())
        if kind.form == "distance":
            steps += self._metric(camera, kind.name)
        if kind.form == "vectors" and self.axes == "optical":
            steps.append(optical())
        return steps
