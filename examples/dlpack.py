"""Frames from and results into another library's memory, without a copy: any library that speaks DLPack.

python examples/dlpack.py [numpy|torch|cupy] [bundle]
"""

import importlib
import sys
from pathlib import Path

import numpy as np

import e2e_deploy as e2e

HOST = 1  # DLPack's number of it


def main(library: str = "numpy", bundle: str | Path = e2e.READY_BUNDLE) -> None:
    """Frames of this library in, depth of this library out; the second time into memory of one's own."""
    xp = importlib.import_module(library)
    with e2e.load(bundle) as engine:
        gpu = engine.backend.gpu  # whose arrays stay there; None: it computes on the host
        place = {} if gpu is None or library != "torch" else {"device": f"cuda:{gpu}"}
        frame = xp.zeros((*engine.frame_size, 3), dtype=xp.uint8, **place)
        frame[: engine.frame_size[0] // 2] = 255

        depth = engine(frame)
        print(f"{type(depth).__module__}.{type(depth).__name__} {tuple(depth.shape)}")

        mine = xp.zeros(engine.frame_size, dtype=xp.float32, **place)  # once, for a whole loop
        seen = np.from_dlpack(mine) if mine.__dlpack_device__()[0] == HOST else None
        engine(frame, out=mine)
        print(f"the same in memory of one's own: {bool((mine == depth).all())}")
        if seen is not None:
            print(f"NumPy sees it without a copy: mean {seen.mean():.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
