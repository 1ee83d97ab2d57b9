"""Many clients, one engine: send the size of a picture in four bytes and its file, get its depth as a 16-bit PNG.

python examples/server.py [port] [bundle]
"""

import asyncio
import sys
from pathlib import Path

import cv2
import numpy as np

import e2e_deploy as e2e

MAX_BYTES = 20_000_000


async def answer(
    engine: e2e.Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Serve one client; while its picture is computed, others are received."""
    size = int.from_bytes(await reader.readexactly(4), "big")
    data = await reader.readexactly(min(size, MAX_BYTES))
    bgr = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    if bgr is not None:
        depth = await engine.predict_async(bgr[..., ::-1].copy())  # one at a time, in order
        writer.write(cv2.imencode(".png", np.round(depth * 65535).astype(np.uint16))[1].tobytes())
    writer.close()


async def serve(port: int, bundle: str | Path = e2e.READY_BUNDLE) -> None:
    """Listen on this machine only."""
    with e2e.load(bundle) as engine:
        server = await asyncio.start_server(lambda r, w: answer(engine, r, w), "127.0.0.1", port)
        print(server.sockets[0].getsockname()[1], flush=True)
        async with server:
            await server.serve_forever()


if __name__ == "__main__":
    given, *bundles = sys.argv[1:] or ["0"]  # 0: any free port, which is printed
    asyncio.run(serve(int(given), *bundles))
