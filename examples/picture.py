"""Depth of one picture.

python examples/picture.py photo.jpg [bundle]
"""

import sys
from pathlib import Path

import cv2
import numpy as np

import e2e_deploy as e2e


def main(photo: str, bundle: str | Path = e2e.READY_BUNDLE) -> None:
    """Say what is near and far, and write the depth beside the picture as a 16-bit PNG."""
    rgb = e2e.read_picture(photo)
    with e2e.load(bundle) as engine:
        depth = engine.predict(rgb)  # float32 [H, W], 0 = near, 1 = far
    row, column = np.unravel_index(np.argmin(depth), depth.shape)
    print(
        f"nearest at column {column}, row {row}; depth from {depth.min():.3f} to {depth.max():.3f}"
    )
    path = Path(photo).with_suffix(".depth.png")
    cv2.imwrite(str(path), np.round(depth * 65535).astype(np.uint16))
    print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
