"""The live loop with a sink of one's own: where is the nearest thing?

python examples/live.py camera:0 [bundle]
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import e2e_deploy as e2e


class Nearest:
    """Says left, middle or right, whichever holds the nearest depth.

    ``write`` is called in a thread of its own. Of a camera it gets the newest; others are left out while it is busy.
    """

    name = "nearest"
    on_main_thread = False

    def write(self, frame: e2e.SourceFrame, depth: npt.NDArray[np.float32], facts: Any) -> None:
        """Take a frame, its depth [H, W] and what was done to it; neither array may be changed."""
        thirds = [np.median(third) for third in np.array_split(depth, 3, axis=1)]
        print(frame.index, ("left", "middle", "right")[int(np.argmin(thirds))])

    def close(self) -> list[Path]:
        """Nothing was written."""
        return []


def main(source: str, bundle: str | Path = e2e.READY_BUNDLE) -> None:
    """Run until the source ends or Ctrl-C."""
    report = e2e.run(source, bundle, sinks=[Nearest()], steady=True)
    print(f"{report.frames} frames, {report.dropped} left out; {report.engine}")


if __name__ == "__main__":
    main(*sys.argv[1:])
