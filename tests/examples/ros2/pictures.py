"""Messages of a camera, and an engine that is as slow as a test wants."""

import itertools
import threading
import time

import av
import numpy as np
from mcap.reader import make_reader
from rosbags import rosbag2
from rosbags.typesys import Stores, get_typestore

import e2e_deploy as e2e
from e2e_deploy.runtime.camera.camera_info import CameraInfo
from e2e_deploy.runtime.camera.intrinsics import Intrinsics
from e2e_deploy.runtime.ros import cdr, messages
from e2e_deploy.runtime.ros.cameras import camera_message
from e2e_deploy.runtime.ros.messages import Header, Time
from e2e_deploy.runtime.ros.topics import image
from tests.plain_bundle import HW

FIRST_NS = 1_700_000_000_000_000_000
STEP_NS = 33_333_333
TOPIC = "/front/image_raw"
CAMERA = CameraInfo.of(Intrinsics(40.0, 42.0, 15.0, 11.5), HW)


def stamp_of(index):
    return FIRST_NS + index * STEP_NS


def header(index):
    return Header(Time.of(stamp_of(index)), "front_optical_frame")


def rgb_of(index, hw=HW):
    """A picture that tells its index: the mean over 255 is index / 255."""
    return np.full((*hw, 3), index % 256, np.uint8)


def picture(index, hw=HW):
    """Of a recording at 30 Hz."""
    return image(header(index), rgb_of(index, hw)[..., ::-1], "bgr8")


def camera_info(index=0, camera=CAMERA):
    return camera_message(camera, header(index))


def damaged(index):
    return messages.Image(header(index), *HW, "kodachrome", 0, HW[1], np.zeros(8, np.uint8))


def wait_until(is_so, seconds=30.0):
    """Wait for something that other threads do; it fails where that never comes."""
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.002)


def record(path, clip, count):
    """The first frames of a video as a log of a camera at 30 Hz, as ``ros2 bag record`` would write it."""
    with rosbag2.Writer(path, version=9, storage_plugin=rosbag2.StoragePlugin.MCAP) as log:
        topic = log.add_connection(
            "/front/image_raw", messages.Image.type_name, typestore=get_typestore(Stores.ROS2_JAZZY)
        )
        with av.open(str(clip)) as video:
            frames = itertools.islice(video.decode(video=0), count)
            for index, frame in enumerate(frames):
                small = frame.reformat(width=HW[1], height=HW[0], format="bgr24").to_ndarray()
                log.write(
                    topic, stamp_of(index), cdr.serialise(image(header(index), small, "bgr8"))
                )


def replay(path, take):
    """Every picture of a log when its time has come, read by another library."""
    start = None
    with open(next(path.glob("*.mcap")), "rb") as file:
        for index, (_, _, logged) in enumerate(make_reader(file).iter_messages()):
            start = start or time.monotonic()
            time.sleep(max(0.0, start + index / 30 - time.monotonic()))
            assert logged.log_time == stamp_of(index)
            take(index, cdr.deserialise(logged.data, messages.Image.type_name))


class Gate:
    """An engine that begins a frame when it is given one and ends it when the test says so."""

    def __init__(self, monkeypatch):
        self.begun = 0
        self.is_open = False
        self._permits = threading.Semaphore(0)
        collect = e2e.Engine.collect

        def slow(engine, slot):
            self.begun += 1
            if not self.is_open:
                self._permits.acquire()
            return collect(engine, slot)

        monkeypatch.setattr(e2e.Engine, "collect", slow)

    def let(self, frames=1):
        """Let so many frames end."""
        self._permits.release(frames)

    def open(self):
        """Be fast from now on."""
        self.is_open = True
        self._permits.release(1000)


class Published(list):
    """What the logic published, in order."""

    def of(self, name):
        return [each.message for each in list(self) if each.topic.endswith(f"/{name}")]

    def indices(self, name="depth_affine"):
        """Which pictures the results are of, by their stamps."""
        return [(m.header.stamp.ns - FIRST_NS) // STEP_NS for m in self.of(name)]


def values(node):
    """What the node's diagnostics say, by name."""
    return dict(node.diagnose().values)
