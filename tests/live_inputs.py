"""Frames, results, openings and a viewer for the tests of live sinks."""

import os
import signal
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.runtime.camera.camera_info import CameraInfo
from e2e_deploy.runtime.camera.intrinsics import Intrinsics
from e2e_deploy.runtime.sinks.opening import Opening
from e2e_deploy.runtime.sources.source import BaseSource, SourceFrame
from tests.plain_bundle import write_plain_bundle
from tests.sink_inputs import result_for

HW = (24, 32)
STAMP_NS = 1_700_000_000_123_456_789
STEP_NS = 33_333_333
CAMERA = CameraInfo.of(Intrinsics(40.0, 42.0, 15.0, 11.5), HW)
METRIC = {"metric": True, "units": "metres"}


class RobotSource(BaseSource):
    """What a log of a robot says of itself."""

    topic = "/robot/left/image_raw"


def opening_for(folder, task="geometry", source=None, **more):
    """What a sink of a bundle of ``task`` is opened for, and no run."""
    manifest = open_bundle(write_plain_bundle(folder / task, task=task)).manifest
    return Opening(manifest, source or RobotSource("robot"), None, "spectral", False, **more)


def shot(rng, index=0, camera=CAMERA, **more):
    rgb = rng.integers(0, 256, (*HW, 3), dtype=np.uint8)
    told = {"stamp_ns": STAMP_NS + index * STEP_NS, "frame_id": "left_optical"} | more
    return SourceFrame(rgb, index, None, f"{index}", camera=camera, **told)


def geometry(rng, *, metric=False):
    """Results and facts of a bundle of depth and normals."""
    depth = rng.uniform(0.5, 20.0, HW).astype(np.float32)
    depth[0, :3] = np.nan, np.inf, -np.inf
    results = {"depth": depth, "normals": result_for("normals", rng, HW)}
    return results, {"depth": METRIC if metric else {}, "normals": {}}


@contextmanager
def viewer(folder):
    """Rerun's program without a window, which saves what it is sent: (port, file, process)."""
    program = Path(find_spec("rerun_cli").origin).parent / "rerun"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = [program, "--bind", "127.0.0.1", "--port", str(port), "--save", folder / "seen.rrd"]
    environment = os.environ | {"HOME": str(folder)}  # where it would remember that it ran
    # In the background SIGINT is ignored, and a process inherits that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL) as process:
        signal.signal(signal.SIGINT, before)
        try:
            for _ in range(300):
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.1)
            yield port, folder / "seen.rrd", process
        finally:
            process.kill()


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)
    return found
