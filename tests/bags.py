"""Logs of robots for the tests, written by the packages rosbags and mcap and by no line of ours."""

import functools
import sqlite3

import numpy as np
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

START_NS = 1_700_000_000_000_000_000
STEP_NS = 33_333_333
HW = (24, 32)


@functools.cache
def store():
    return get_typestore(Stores.ROS2_HUMBLE)


def header(stamp_ns, frame_id="camera"):
    types = store().types
    time = types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 10**9))
    return types["std_msgs/msg/Header"](time, frame_id)


def raw(rgb, stamp_ns, encoding="rgb8", *, data=None, frame_id="camera", step=None):
    """A sensor_msgs/Image: of an RGB picture, or with any bytes."""
    height, width = rgb.shape[:2]
    pixels = np.ascontiguousarray(rgb if data is None else data).view(np.uint8).ravel()
    step = step or 3 * width
    kind = store().types["sensor_msgs/msg/Image"]
    return kind(header(stamp_ns, frame_id), height, width, encoding, 0, step, pixels)


def compressed(data, stamp_ns, form="jpeg", frame_id="camera"):
    kind = store().types["sensor_msgs/msg/CompressedImage"]
    return kind(header(stamp_ns, frame_id), form, np.frombuffer(data, np.uint8))


def info(stamp_ns, hw=HW, focal=40.0, d=(), model="", frame_id="camera", p_focal=None):
    types = store().types
    roi = types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    centre = ((hw[1] - 1) / 2, (hw[0] - 1) / 2)
    k = [focal, 0, centre[0], 0, focal, centre[1], 0, 0, 1]
    f = p_focal or focal
    p = [f, 0, centre[0], 0, 0, f, centre[1], 0, 0, 0, 1, 0]
    numbers = [np.array(each, dtype=np.float64) for each in (d, k, np.eye(3).ravel(), p)]
    return types["sensor_msgs/msg/CameraInfo"](
        header(stamp_ns, frame_id), *hw, model, *numbers, 0, 0, roi
    )


def text(words):
    return store().types["std_msgs/msg/String"](words)


def pictures(count, hw=HW, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *hw, 3), dtype=np.uint8)


def cdr(message):
    return bytes(store().serialize_cdr(message, message.__msgtype__))


def stream(
    rgbs, topic="/camera/image_raw", *, delay_ns=2_000_000, frame_id="camera", start_ns=START_NS
):
    """(topic, log time, message) of pictures at 30 Hz."""
    return [
        (
            topic,
            start_ns + i * STEP_NS + delay_ns,
            raw(rgb, start_ns + i * STEP_NS, frame_id=frame_id),
        )
        for i, rgb in enumerate(rgbs)
    ]


def infos(count, topic="/camera/camera_info", *, delay_ns=2_100_000, **camera):
    return [
        (topic, START_NS + i * STEP_NS + delay_ns, info(START_NS + i * STEP_NS, **camera))
        for i in range(count)
    ]


def write_mcap(path, entries, *, profile="ros2", finish=True, encoding="cdr", **options):
    """(topic, log time, message or (type, bytes)) into one MCAP file by the package mcap, in that order."""
    options.setdefault("compression", CompressionType.ZSTD)
    with path.open("wb") as file:
        writer = McapWriter(file, **options)
        writer.start(profile)
        schemas, channels = {}, {}
        for topic, log_ns, message in entries:
            kind, data = (
                message if isinstance(message, tuple) else (message.__msgtype__, cdr(message))
            )
            if kind not in schemas:
                words = store().generate_msgdef(kind)[0] if kind in store().types else ""
                schemas[kind] = writer.register_schema(kind, "ros2msg", words.encode())
            if (topic, kind) not in channels:
                channels[topic, kind] = writer.register_channel(topic, encoding, schemas[kind])
            writer.add_message(channels[topic, kind], log_ns, data, log_ns)
        if finish:
            writer.finish()
    return path


def write_folder(path, entries, *, storage=StoragePlugin.SQLITE3, mode=CompressionMode.NONE):
    """The same into a folder of rosbag2, by rosbags."""
    writer = Writer(path, version=9, storage_plugin=storage)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for topic, log_ns, message in entries:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store())
            writer.write(connections[topic], log_ns, cdr(message))
    return path


def only_file(folder, ending):
    (found,) = folder.glob(f"*{ending}")
    return found


def in_database(path, statement, *values):
    with sqlite3.connect(path) as base:
        base.execute(statement, values)
    base.close()
