"""Metres from a few known points (a lidar, a tape measure), and a point cloud for MeshLab or Open3D.

python examples/point_cloud.py photo.jpg points.csv fx,fy,cx,cy [bundle]

points.csv holds column, row, metres, a line for each point of the photo.
"""

import sys
from pathlib import Path

import numpy as np

import e2e_deploy as e2e


def main(photo: str, points: str, camera: str, bundle: str | Path = e2e.READY_BUNDLE) -> None:
    """Write the photo's depth in metres (.npy) and its points (.ply) beside it."""
    fx, fy, cx, cy = map(float, camera.split(","))
    metres, cloud = (Path(photo).with_suffix(suffix) for suffix in (".metres.npy", ".ply"))
    report = e2e.run(
        photo,
        bundle,
        out=[metres, cloud],
        metric_points=points,
        intrinsics=e2e.Intrinsics(fx, fy, cx, cy),
    )
    if report.failed_steps:
        sys.exit(report.failed_step)
    depth_m = np.load(metres)
    print(f"{np.nanmin(depth_m):.2f} to {np.nanmax(depth_m):.2f} m")
    print(cloud)


if __name__ == "__main__":
    main(*sys.argv[1:])
