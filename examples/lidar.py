"""Metres in every frame from a LiDAR's points.

python examples/lidar.py folder calibration.npz [bundle]

The folder holds a picture and its points under one name: 000.png, 000.npy (float [N, 3], metres in the LiDAR's frame).
calibration.npz holds K [3, 3] and lidar_to_camera [4, 4], whose camera looks along z, with x right and y down.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import e2e_deploy as e2e

Array = npt.NDArray[Any]
AGREE = 0.3  # share of points; the packaged model is small, of a full-size one expect the usual 0.5


def in_picture(points_N3: Array, lidar_to_camera: Array, K: Array) -> Array:
    """Columns, rows and metres along the optical axis [M, 3] of the points before the camera."""
    seen = points_N3 @ lidar_to_camera[:3, :3].T + lidar_to_camera[:3, 3]
    seen = seen[seen[:, 2] > 0.1]
    pixels = seen @ K.T
    return np.column_stack([pixels[:, :2] / pixels[:, 2:], seen[:, 2]])


def main(folder: str, calibration: str, bundle: str | Path = e2e.READY_BUNDLE) -> None:
    """Write each picture's depth in metres beside it, as 000.metres.npy."""
    given = np.load(calibration)
    with e2e.load(bundle) as engine:
        kind = engine.manifest.outputs[0]  # depth, or another distance that the model gives
        for photo in sorted(p for p in Path(folder).iterdir() if p.suffix in (".png", ".jpg")):
            depth = engine.predict(e2e.read_picture(photo))
            points = np.load(photo.with_suffix(".npy"))
            table = in_picture(points, given["lidar_to_camera"], given["K"])
            try:
                fit = e2e.fit_metric(depth, table, space=kind, min_inliers=AGREE)
            except e2e.InputError as error:  # this frame has no metres; an older scale is not its
                print(f"{photo.name}: {error}")
                continue
            np.save(photo.with_suffix(".metres.npy"), fit.apply(depth))
            print(f"{photo.name}: {fit.inliers:.0%} of {fit.points} within {fit.residual_m:.2f} m")


if __name__ == "__main__":
    main(*sys.argv[1:])
