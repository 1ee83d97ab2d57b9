"""Depth inside a program of OpenCV: its camera, its window.

python examples/opencv_loop.py 0 (a camera's number, a video file, an address) [folder, in place of the window] [bundle]
"""

import sys
from pathlib import Path

import cv2
import numpy as np

import e2e_deploy as e2e


def main(source: str, folder: str = "", bundle: str | Path = e2e.READY_BUNDLE) -> None:
    """Show every frame's depth until q is pressed or the source ends, or write pictures into the folder."""
    capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
    if not capture.isOpened():
        sys.exit("OpenCV cannot open this camera or file")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
    with e2e.load(bundle) as engine:
        frames = 0
        while True:
            there, bgr = capture.read()
            if not there:
                break
            depth = engine.predict(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))  # 0 = near, 1 = far
            grey = np.round(255 * (1 - depth)).astype(np.uint8)
            colours = np.hstack([bgr, cv2.applyColorMap(grey, cv2.COLORMAP_TURBO)])
            if folder:
                cv2.imwrite(str(Path(folder) / f"{frames:06}.png"), colours)
            else:
                cv2.imshow("depth", colours)
                if cv2.waitKey(1) == ord("q"):
                    break
            frames += 1
        print(f"{frames} frames; {engine.describe()}")
    capture.release()


if __name__ == "__main__":
    main(*sys.argv[1:])
