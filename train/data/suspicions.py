"""What looks wrong in a data set although every file can be read, found while its samples go by.

Knows: truths that teach nothing, depth that no scene has, normals that disagree with the depth.
Does not know: files, counts, damage.
"""

from collections import defaultdict

import numpy as np
import numpy.typing as npt

from e2e_deploy.train.data.folder_spec import FolderSpec
from e2e_deploy.train.data.normals_from_depth import normals_from_depth
from e2e_deploy.train.data.sample import FAR_QUANTILE, NEAR_QUANTILE, Sample, suspect_unit
from e2e_deploy.train.normals_axes import AxesComparison

FARTHEST_M, NEAREST_M = 1000.0, 0.002
"""Depth beyond these is a renderer's or a sensor's word for nothing rather than a surface."""

FAR_FACTOR = 10.0
"""A farthest value this many times beyond 98 per cent of the others is a background; streets have 4."""

SAME_SHARE = 0.005
"""Share of an image at exactly its largest depth that makes it a plane of its own, such as a sky."""

MIN_CORRELATION = 0.2
"""Of stored normals with those from depth, in the best axes; below it they have nothing in common."""

SMALLEST_CONTRAST = 8
"""Grey levels between the darkest and the brightest value of a picture that shows something."""

NUM_COMPARED = 200
"""Images of a split whose normals are compared with their depth; deriving them costs more than reading."""


class Suspicions:
    """Collects what one split shows.

    Args:
        spec: of the data set.
        num_samples: of the split.
    """

    def __init__(self, spec: FolderSpec, num_samples: int) -> None:
        self._spec, self._every = spec, max(1, num_samples // NUM_COMPARED)
        self._num_samples = 0
        self._found: dict[str, list[str]] = defaultdict(list)
        self._odd_depth: dict[str, list[str]] = defaultdict(list)
        self._medians, self._toward = list[float](), list[float]()
        self._planes = list[float]()
        # Slight slopes show about the mean, surfaces that all lean one way do not.
        self._axes, self._directions = AxesComparison(), AxesComparison(about_mean=False)

    def add(self, stem: str, sample: Sample) -> None:
        """Look at one sample."""
        if np.ptp(sample.rgb) < SMALLEST_CONTRAST:
            self._found["are black or of one colour"].append(stem)
        if self._spec.depth_format is not None:
            self._look_at_depth(stem, sample)
        if sample.normals is not None:
            self._look_at_normals(stem, sample, sample.normals)
        self._num_samples += 1

    def sentences(self) -> list[str]:
        """What was found, one sentence each."""
        unit = suspect_unit(float(np.median(self._medians))) if self._medians else None
        # In a wrong unit every depth is odd.
        found = self._found if unit else self._found | self._odd_depth
        lines = [
            f"{len(stems)} of {self._num_samples} pictures {what} (the first: {stems[0]})"
            for what, stems in found.items()
        ]
        return [line for line in (*lines, unit, self._far_plane(), *self._wrong_axes()) if line]

    def _look_at_depth(self, stem: str, sample: Sample) -> None:
        depth = sample.depth_m[sample.valid]
        if not depth.size:
            self._found["have no valid depth and teach nothing"].append(stem)
            return
        self._medians.append(float(np.median(depth)))
        near, far = np.quantile(depth, [NEAR_QUANTILE, FAR_QUANTILE])
        if not far > near:
            self._found["have the same depth everywhere and teach nothing"].append(stem)
            return
        largest = depth.max()
        is_largest = depth == largest
        before = np.quantile(depth[~is_largest], FAR_QUANTILE)
        if largest > FARTHEST_M or largest > FAR_FACTOR * before:
            self._odd_depth[
                f"hold depth above {FARTHEST_M:g} m or far beyond the rest: a background counts as depth, set "
                "depth.max_m below it"
            ].append(stem)
        elif is_largest.mean() > SAME_SHARE and largest < 0.95 * self._spec.max_m:
            self._planes.append(float(largest))
        if depth.min() < NEAREST_M:
            self._odd_depth[
                f"hold depth below {NEAREST_M:g} m: unknown values count as depth, set depth.min_m"
            ].append(stem)

    def _look_at_normals(self, stem: str, sample: Sample, normals: npt.NDArray[np.float32]) -> None:
        known = sample.known("normals")
        if not known.any():
            self._found["have no known normal and teach nothing"].append(stem)
            return
        self._toward.append(float(np.mean(normals[known, 2] > 0)))
        if self._spec.camera is not None and self._num_samples % self._every == 0:
            depth_m = np.where(sample.valid, sample.depth_m, np.float32(0))
            from_depth = normals_from_depth(depth_m, self._spec.camera)
            for comparison in (self._axes, self._directions):
                comparison.add(from_depth, normals, known & from_depth.any(axis=-1))

    def _far_plane(self) -> str | None:
        """Real depth varies; a value that is the farthest of image after image is where somebody cut it off."""
        values, counts = np.unique(self._planes, return_counts=True)
        if not values.size or counts.max() < max(2, self._num_samples / 2):
            return None
        return (
            f"the largest depth is exactly {values[counts.argmax()]:g} m in {counts.max()} of {self._num_samples} "
            "pictures: a sky or a far plane counts as depth, set depth.max_m below it"
        )

    def _wrong_axes(self) -> list[str]:
        lines, toward = [], np.mean(self._toward) if self._toward else 1.0
        if toward < 0.5:  # a visible surface faces the camera
            lines.append(
                f"{1 - toward:.0%} of the normals point away from the viewer: the axes look wrong; "
                "check normals.axes"
            )
        fit, directions = self._axes.result(), self._directions.result()
        if directions is not None and directions.differ:
            fit = directions
        if fit is not None and fit.differ:
            lines.append(
                f"x, y, z of the stored normals are {fit.axes} of those from the depth (correlation "
                f"{fit.correlation:.2f}, {fit.as_given:.2f} as they are): check normals.axes, or turn the files"
            )
        elif fit is not None and fit.correlation < MIN_CORRELATION:
            lines.append(
                f"the stored normals have nothing in common with those from the depth (correlation "
                f"{fit.correlation:.2f}): are they in the camera's axes, and is [camera] right?"
            )
        return lines
