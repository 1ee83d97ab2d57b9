"""A camera that is faster than the engine, in asyncio: the newest frame only, and the loop stays free meanwhile.

python examples/async_loop.py 0 (a camera's number, a video file, an address) [bundle]
"""

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import e2e_deploy as e2e


async def keep_newest(camera: cv2.VideoCapture, newest: asyncio.Queue[Any]) -> None:
    """Read on and on; a frame that nobody took makes room for the next one. None at the end."""
    period_s = 1 / (camera.get(cv2.CAP_PROP_FPS) or 30)  # files come no faster than they were taken
    for index in range(sys.maxsize):
        due = time.monotonic() + period_s
        there, bgr = await asyncio.to_thread(camera.read)  # a camera makes us wait, and nobody else
        if not there:
            break
        if newest.full():
            newest.get_nowait()
        newest.put_nowait((index, time.monotonic(), cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)))
        await asyncio.sleep(due - time.monotonic())
    await newest.put(None)


async def watch(source: str, bundle: str | Path = e2e.READY_BUNDLE) -> None:
    """Say how near the middle is; the numbers of the frames show which were left out."""
    camera = cv2.VideoCapture(int(source) if source.isdigit() else source)
    if not camera.isOpened():
        sys.exit("OpenCV cannot open this camera or file")
    newest: asyncio.Queue[Any] = asyncio.Queue(1)
    with e2e.load(bundle) as engine:
        reading = asyncio.create_task(keep_newest(camera, newest))
        while (taken := await newest.get()) is not None:
            index, taken_s, rgb = taken
            depth = await engine.predict_async(rgb)
            middle = np.median(np.array_split(np.array_split(depth, 3)[1], 3, axis=1)[1])
            print(f"{index}: {middle:.3f}, {1000 * (time.monotonic() - taken_s):.0f} ms old")
        await reading


if __name__ == "__main__":
    asyncio.run(watch(*sys.argv[1:]))
