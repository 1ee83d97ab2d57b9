"""Two cameras, one call: an engine that takes two frames at once.

e2e-deploy export --batch 2 --out pair
python examples/two_cameras.py 0 1 pair
"""

import sys
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

import e2e_deploy as e2e


def pairs(*sources: str) -> Iterator[Any]:
    """Both cameras' pictures of one moment, uint8 RGB [2, H, W, 3], until one of them ends."""
    cameras = [cv2.VideoCapture(int(each) if each.isdigit() else each) for each in sources]
    while all(camera.grab() for camera in cameras):  # first both moments, then the decoding
        bgr = [camera.retrieve()[1] for camera in cameras]
        if bgr[0].shape != bgr[1].shape:
            sys.exit(f"the cameras differ in size: {bgr[0].shape[:2]} and {bgr[1].shape[:2]}")
        yield np.stack([cv2.cvtColor(each, cv2.COLOR_BGR2RGB) for each in bgr])


def main(left: str, right: str, bundle: str) -> None:
    """Say which camera has more near things before it."""
    with e2e.load(bundle) as engine:
        if engine.batch != 2:
            sys.exit(f"this bundle takes {engine.batch} at once; export one with --batch 2")
        for index, rgb in enumerate(pairs(left, right)):
            depth = engine.predict(rgb)  # float32 [2, H, W]
            near = [float(np.mean(each < 0.3)) for each in depth]
            print(f"{index}: near are {near[0]:.0%} of the first, {near[1]:.0%} of the second")


if __name__ == "__main__":
    main(*sys.argv[1:])
