"""The bytes of messages, held against the decoder of another library, and damaged ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2e_deploy.errors import SourceError, UsageError
from e2e_deploy.runtime.ros import cdr
from e2e_deploy.runtime.ros.messages import (
    TYPES,
    CameraInfo,
    CompressedImage,
    Header,
    Image,
    PointCloud2,
    PointField,
    RegionOfInterest,
    String,
    Time,
)
from tests.ros_peer import peer

HEADER = Header(Time(1_700_000_000, 123_456_789), "left/optical_frame")
BYTES = np.arange(24, dtype=np.uint8)
NINE = np.arange(9, dtype=np.float64)
MESSAGES = [
    String('{"a": "\u00e9"}'),
    Image(HEADER, 2, 3, "32FC1", 0, 12, BYTES),
    CompressedImage(HEADER, "rgb8; jpeg compressed bgr8", BYTES[:7]),
    CameraInfo(
        *(HEADER, 480, 640, "plumb_bob", np.array([0.1, -0.2, 0.0, 0.0, 0.3]), NINE, NINE + 1),
        *(np.arange(12, dtype=np.float64), 1, 2, RegionOfInterest(1, 2, 3, 4, True)),
    ),
    PointCloud2(
        *(HEADER, 1, 2, (PointField("x", 0, 7, 1), PointField("rgb", 12, 7, 1)), False),
        *(12, 24, BYTES, False),
    ),
]
names = pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)


def same(ours, other):
    """Whether two messages have the same fields with the same values, whatever their classes are."""
    if isinstance(ours, (np.ndarray, bytes)):
        return np.array_equal(
            ours, np.frombuffer(other, ours.dtype) if isinstance(other, bytes) else other
        )
    if isinstance(ours, tuple):
        return len(ours) == len(other) and all(map(same, ours, other))
    if hasattr(ours, "type_name"):
        return all(same(value, getattr(other, name)) for name, value in vars(ours).items())
    return ours == other


@names
def test_another_library_reads_the_same(message):
    assert same(message, peer(cdr.serialise(message), message.type_name))


@names
def test_there_and_back_is_the_same(message):
    raw = cdr.serialise(message)
    back = cdr.deserialise(raw, message.type_name)
    assert type(back) is type(message)
    assert same(message, back)
    assert cdr.serialise(back) == raw


def test_numbers_that_are_none_keep_their_bits():
    floats = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.0], dtype=np.float32)
    image = Image(HEADER, 1, 6, "32FC1", 0, 24, floats.view(np.uint8))
    read = peer(cdr.serialise(image), image.type_name)
    assert bytes(read.data) == floats.tobytes()


def test_big_endian_bytes_are_read():
    """As rosbags, which wrote them, could; ROS 2 on a big-endian machine sends them."""
    message = MESSAGES[3]
    raw = bytes(cdr._store().serialize_cdr(message, message.type_name, little_endian=False))
    assert raw[1] == 0
    assert same(message, cdr.deserialise(raw, message.type_name))


@given(st.integers(-(2**31) * 10**9, 2**31 * 10**9 - 1))
def test_a_stamp_is_kept_to_the_nanosecond(stamp_ns):
    time = Time.of(stamp_ns)
    assert time.ns == stamp_ns
    assert 0 <= time.nanosec < 10**9


def test_a_stamp_beyond_the_message_is_a_sentence():
    with pytest.raises(UsageError, match="does not fit the messages of ROS 2"):
        Time.of(2**31 * 10**9)


@names
def test_bytes_that_are_cut_off_are_a_sentence_or_nothing_is_missing(message):
    raw = cdr.serialise(message)
    for length in range(len(raw)):
        with pytest.raises(SourceError, match=f"are no {message.type_name}"):
            cdr.deserialise(raw[:length], message.type_name)


@given(st.data())
def test_damaged_bytes_are_read_or_a_sentence(data):
    message = data.draw(st.sampled_from(MESSAGES))
    raw = bytearray(cdr.serialise(message))
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=6)):
        raw[at] = data.draw(st.integers(0, 255))
    try:
        cdr.deserialise(bytes(raw), message.type_name)
    except SourceError as error:
        assert "\n" not in str(error)  # noqa: PT017 - it may pass as well


def test_only_our_messages_are_read_and_defined():
    for call in (lambda: cdr.definition("nav_msgs/msg/Path"), lambda: cdr.deserialise(b"", "x")):
        with pytest.raises(UsageError, match="is none of the messages"):
            call()


def test_every_message_has_a_definition_with_those_within_it():
    for name in TYPES:
        assert cdr.definition(name)
    assert "MSG: builtin_interfaces/Time" in cdr.definition("sensor_msgs/msg/Image")
