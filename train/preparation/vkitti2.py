"""Reader of the official Virtual KITTI 2 layout, and its preparation as a folder data set.

    <src>/Scene01/<weather>/frames/rgb/Camera_0/rgb_00000.jpg
    <src>/Scene01/<weather>/frames/depth/Camera_0/depth_00000.png      16 bits, centimetres

(the two archives unpacked into one folder). Knows: that layout, the KITTI benchmark crop, normals
from depth. Does not know: training. Depth is kept in centimetres, so nothing is lost or saturated
that was not in the source; 80 m and more is invalid. Images are stored cropped to 352 x 1216.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from e2e_deploy.errors import DataError, UsageError
from e2e_deploy.names import OnBad
from e2e_deploy.train.data.encoding import decode_depth
from e2e_deploy.train.data.files import read_picture, read_rgb
from e2e_deploy.train.data.folder_spec import FolderSpec
from e2e_deploy.train.data.normals_from_depth import normals_from_depth
from e2e_deploy.train.data.resize import crop
from e2e_deploy.train.data.sample import Camera, Sample, valid_depth
from e2e_deploy.train.preparation.conversion import Job, PrepareReport, Progress, convert_all

SCENES = ("Scene01", "Scene02", "Scene06", "Scene18", "Scene20")
WEATHERS = ("morning", "fog", "rain", "sunset", "overcast")
"""What E2E-FT's published loader reads; the set also has clone and four rotated cameras."""

SOURCE_SIZE = (375, 1242)
SIZE = (352, 1216)
CAMERA = Camera(fx=725.0087, fy=725.0087, cx=620.5, cy=187.0)
UNIT_M = 0.01
MAX_DEPTH_M = 80.0


def prepare_vkitti2(
    src: Path | str,
    dst: Path | str,
    *,
    scenes: Sequence[str] = SCENES,
    weathers: Sequence[str] = WEATHERS,
    val_scenes: Sequence[str] = (),
    workers: int = 1,
    on_bad: OnBad = "skip",
    on_progress: Progress | None = None,
) -> PrepareReport:
    """Write the chosen scenes of ``src`` as the folder data set ``dst``, with normals from depth.

    Args:
        src: folder with Scene01 and so on.
        dst: folder data set to write.
        scenes: scenes to use.
        weathers: variations to use.
        val_scenes: those of ``scenes`` that become the split val; the rest is train.
        workers: processes.
        on_bad: skip and report, or stop.
        on_progress: called with (done, total).

    Raises:
        DataError: nothing was found, or a bad sample with "stop".
        UsageError: ``dst`` was prepared with other settings, or a scene to validate on is not used.
    """
    if unused := sorted(set(val_scenes) - set(scenes)):
        raise UsageError(
            f"no scene {', '.join(unused)} to validate on; there are {', '.join(scenes)}"
        )
    spec = FolderSpec(
        name="vkitti2",
        depth_format="png16",
        unit_m=UNIT_M,
        max_m=MAX_DEPTH_M,
        normals_format="png8",
    )
    jobs = vkitti2_jobs(Path(src), scenes, weathers, val_scenes)
    if not jobs:
        raise DataError(
            f"{src} holds nothing of Virtual KITTI 2; expected both archives unpacked into it, with files such as "
            f"{scenes[0]}/{weathers[0]}/frames/rgb/Camera_0/rgb_00000.jpg"
        )
    return convert_all(
        jobs,
        read_vkitti2,
        Path(dst),
        spec,
        size=SIZE,
        workers=workers,
        on_bad=on_bad,
        on_progress=on_progress,
    )


def vkitti2_jobs(
    src: Path, scenes: Sequence[str], weathers: Sequence[str], val_scenes: Sequence[str] = ()
) -> list[Job]:
    """Every frame of which colour or depth exists; sources of a job: colour, depth."""
    jobs = []
    for scene in scenes:
        for weather in weathers:
            frames = src / scene / weather / "frames"
            for camera in ("Camera_0", "Camera_1"):
                colors = (frames / "rgb" / camera).glob("rgb_*.jpg")
                depths = (frames / "depth" / camera).glob("depth_*.png")
                numbers = {path.stem.partition("_")[2] for path in (*colors, *depths)}
                jobs += [
                    Job(
                        "val" if scene in val_scenes else "train",
                        f"{scene}_{weather}_{camera}_{number}",
                        (
                            frames / "rgb" / camera / f"rgb_{number}.jpg",
                            frames / "depth" / camera / f"depth_{number}.png",
                        ),
                    )
                    for number in sorted(numbers)
                ]
    return jobs


def read_vkitti2(job: Job) -> Sample:
    """Read and crop one frame; normals come from the depth of the whole frame.

    Raises:
        DataError: a file is missing or damaged, or is not 375 x 1242.
    """
    color_path, depth_path = job.sources
    rgb, stored = read_rgb(color_path), read_picture(depth_path)
    if rgb.shape[:2] != SOURCE_SIZE or stored.shape != SOURCE_SIZE:
        raise DataError(
            f"{color_path}: colour {rgb.shape} and depth {stored.shape} must both be {SOURCE_SIZE}"
        )
    if stored.dtype != np.uint16:
        raise DataError(f"{depth_path}: expected a 16-bit PNG, got {stored.dtype}")
    depth_m = decode_depth(stored, UNIT_M)
    sample = Sample(
        rgb=rgb,
        depth_m=depth_m,
        normals=normals_from_depth(depth_m, CAMERA),
        valid=valid_depth(depth_m, max_m=MAX_DEPTH_M),
        path=str(color_path),
    )
    height, width = SIZE
    # The KITTI benchmark's crop: the lowest rows, centred columns.
    return crop(sample, SOURCE_SIZE[0] - height, (SOURCE_SIZE[1] - width) // 2, height, width)
