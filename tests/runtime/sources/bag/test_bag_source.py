"""Pictures out of logs that other libraries wrote: which, in what order, when, by which camera; what is left out."""

import sys
from contextlib import suppress
from itertools import pairwise

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader

import e2e_deploy as e2e
from e2e_deploy.errors import SourceError, UnavailableError, UsageError
from e2e_deploy.runtime.ros import cdr
from e2e_deploy.runtime.ros.images import ENCODINGS
from e2e_deploy.runtime.sources.bag.bag_source import BagSource
from e2e_deploy.runtime.sources.uris import open_source
from tests import bags
from tests.bags import START_NS, STEP_NS, write_mcap
from tests.plain_bundle import plain_depth, write_plain_bundle

TOPIC = "/camera/image_raw"


def by_log_time(*streams):
    return sorted((entry for stream in streams for entry in stream), key=lambda entry: entry[1])


def frames_of(path, **arguments):
    source = BagSource(path, **arguments)
    return source, list(source)


@pytest.fixture(scope="module")
def rgbs():
    return bags.pictures(6)


def test_frames_have_stamps_and_cameras_to_the_last_digit(tmp_path, rgbs):
    entries = by_log_time(bags.stream(rgbs), bags.infos(6, focal=41.5))
    source, frames = frames_of(write_mcap(tmp_path / "a.mcap", entries))
    assert (source.total, source.is_video, source.is_live) == (6, True, False)
    assert source.topic == TOPIC
    assert source.files == [tmp_path / "a.mcap"]
    assert source.fps == pytest.approx(30, rel=0.02)
    assert source.camera == frames[0].camera
    assert source.notes == []
    np.testing.assert_array_equal([frame.rgb for frame in frames], rgbs)
    for i, frame in enumerate(frames):
        assert frame.stamp_ns == START_NS + i * STEP_NS
        assert frame.logged_ns == frame.stamp_ns + 2_000_000
        assert frame.shown_s == frame.pts_s == pytest.approx(i * STEP_NS / 1e9, abs=1e-12)
        assert (frame.frame_id, frame.index, frame.name) == ("camera", i, "a")
        assert frame.camera.k == (41.5, 0, 15.5, 0, 41.5, 11.5, 0, 0, 1)
    assert len(list(source)) == 6  # a second time


YUV = {  # bytes of two pixels, or of planes, that are BT.601's (81, 90, 240): red
    "yuv422": [90, 81, 240, 81],
    "uyvy": [90, 81, 240, 81],
    "yuv422_yuy2": [81, 90, 81, 240],
    "yuyv": [81, 90, 81, 240],
}


def message_of(encoding, rgb):
    """The picture as a message of an encoding, and what must come out: (data, step, RGB, tolerance)."""
    height, width = rgb.shape[:2]
    bits = 16 if encoding.endswith("16") else 8
    wide = rgb.astype("<u2") * 257 if bits == 16 else rgb
    size = bits // 8
    alpha = np.full_like(wide[..., :1], 7)
    red = np.broadcast_to(np.uint8([254, 0, 0]), rgb.shape)
    if encoding.startswith(("rgb", "bgr")):
        colour = wide if encoding.startswith("rgb") else wide[..., ::-1]
        data = np.concatenate([colour, alpha], axis=2) if "a" in encoding else colour
        return data, data.shape[2] * width * size, rgb, 0
    if encoding in ("mono8", "8UC1", "mono16"):
        return wide[..., 0], width * size, np.repeat(rgb[..., :1], 3, axis=2), 0
    if encoding in YUV:
        return np.tile(np.uint8(YUV[encoding]), (height, width // 2)), 2 * width, red, 2
    if encoding.startswith("nv"):
        order = [240, 90] if encoding == "nv21" else [90, 240]
        pairs = width * (2 if encoding == "nv24" else 1) // 2
        rows = height if encoding == "nv24" else height // 2
        chroma = np.tile(np.uint8(order), (rows, pairs)).reshape(-1, width)
        return np.concatenate([np.full((height, width), 81, np.uint8), chroma]), width, red, 2
    assert encoding.startswith("bayer_")
    colours = np.uint16 if bits == 16 else np.uint8
    tile = np.array([[{"r": 200, "g": 100, "b": 30}[c] for c in encoding[6:10]]]).reshape(2, 2)
    mosaic = np.tile(tile, (height // 2, width // 2)).astype(colours) * (257 if bits == 16 else 1)
    return mosaic, width * size, np.broadcast_to(np.uint8([200, 100, 30]), rgb.shape), 1


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with e2e.load(write_plain_bundle(tmp_path_factory.mktemp("bundle") / "plain")) as engine:
        yield engine


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_every_encoding_through_the_whole_way(tmp_path, rgbs, engine, encoding):
    data, step, expected, tolerance = message_of(encoding, rgbs[0])
    message = bags.raw(rgbs[0], START_NS, encoding, data=data, step=step)
    path = write_mcap(tmp_path / "a.mcap", [(TOPIC, START_NS, message)])
    source = open_source(path)
    (frame,) = source
    assert source.skipped == 0
    assert np.abs(frame.rgb.astype(int) - expected).max() <= tolerance
    e2e.run(path, engine, out=tmp_path / "out.mcap")
    with AnyReader([tmp_path / "out.mcap"]) as log:
        (result,) = (
            log.deserialize(raw, c.msgtype) for c, _, raw in log.messages() if "depth" in c.topic
        )
    found = result.data.view(np.float32).reshape(rgbs[0].shape[:2])
    np.testing.assert_allclose(found, plain_depth(expected), atol=tolerance / 255 + 1e-6)


@pytest.mark.parametrize(
    ("form", "ending"), [("jpeg", ".jpg"), ("rgb8; png compressed bgr8", ".png")]
)
def test_compressed_pictures(tmp_path, form, ending):
    smooth = cv2.resize(bags.pictures(1, (3, 4))[0], (32, 24))
    data = cv2.imencode(ending, smooth[..., ::-1])[1].tobytes()
    topic = "/camera/image_raw/compressed"
    entries = [(topic, START_NS, bags.compressed(data, START_NS, form)), *bags.infos(1)]
    _, (frame,) = frames_of(write_mcap(tmp_path / "a.mcap", entries))
    assert np.abs(frame.rgb.astype(int) - smooth).max() <= (0 if ending == ".png" else 40)
    assert frame.camera.k[0] == 40  # of /camera/camera_info, as image_transport has it


def test_which_topic(tmp_path, rgbs):
    entries = by_log_time(
        bags.stream(rgbs[:2]),
        bags.stream(rgbs[2:5], "/rear/image_raw", frame_id="rear"),
        bags.infos(2),
        [("/chatter", START_NS, bags.text("hello"))],
    )
    path = write_mcap(tmp_path / "a.mcap", entries)
    with pytest.raises(
        UsageError,
        match=r"several topics.*`topic`: /camera/image_raw \(sensor_msgs/Image, 2 mes.*rear",
    ):
        open_source(path)
    rear = open_source(path, topic="/rear/image_raw")
    frames = list(rear)
    np.testing.assert_array_equal([frame.rgb for frame in frames], rgbs[2:5])
    assert rear.camera is None
    assert {frame.frame_id for frame in frames} == {"rear"}
    with pytest.raises(
        SourceError, match=r"no topic '/front'; its topics of pictures are /camera/image_raw"
    ):
        open_source(path, topic="/front")
    with pytest.raises(
        SourceError, match=r"/chatter of .* carries std_msgs/msg/String, and pictures are"
    ):
        open_source(path, topic="/chatter")
    none = write_mcap(tmp_path / "b.mcap", [("/chatter", START_NS, bags.text("hello"))])
    with pytest.raises(
        SourceError, match=r"no topic of pictures; it has /chatter \(std_msgs/String, 1 message\)"
    ):
        open_source(none)
    with pytest.raises(UsageError, match="`topic` is for logs"):
        open_source("test:", topic="/chatter")


def test_depth_that_is_compressed_beside_the_pictures_is_no_choice(tmp_path, rgbs):
    depth = bags.compressed(b"", START_NS, "16UC1; compressedDepth png")
    entries = [*bags.stream(rgbs[:1]), (f"{TOPIC}/compressedDepth", START_NS, depth)]
    assert BagSource(write_mcap(tmp_path / "a.mcap", entries)).topic == TOPIC


def test_messages_in_other_bytes_than_cdr_are_said(tmp_path, rgbs):
    path = write_mcap(tmp_path / "a.mcap", bags.stream(rgbs[:1]), encoding="ros1", profile="ros1")
    with pytest.raises(SourceError, match="in the encoding 'ros1', and pictures are"):
        open_source(path, topic=TOPIC)
    (tmp_path / "b.bag").write_bytes(b"#ROSBAG V2.0\n" + bytes(100))
    with pytest.raises(SourceError, match="a log of ROS 1, which is not read: `rosbags-convert`"):
        open_source(tmp_path / "b.bag")


def test_an_unknown_encoding_is_said_at_once_and_some_are_left_out(tmp_path, rgbs):
    strange = [
        (TOPIC, START_NS + i, bags.raw(rgbs[0], START_NS + i, "x-trans8")) for i in range(20)
    ]
    with pytest.raises(
        SourceError,
        match=r"image_raw: a picture of encoding 'x-trans8' cannot be read; those that.*rgb8",
    ):
        BagSource(write_mcap(tmp_path / "a.mcap", strange))
    mixed = [*bags.stream(rgbs[:3]), *[(t, n + 10**9, m) for t, n, m in strange[:2]]]
    source, frames = frames_of(write_mcap(tmp_path / "b.mcap", mixed))
    assert (len(frames), source.skipped, len(source.notes)) == (3, 2, 1)
    assert "left out" in source.notes[0]
    assert "x-trans8" in source.notes[0]


def test_a_damaged_message_is_counted(tmp_path, rgbs):
    entries = bags.stream(rgbs)
    whole = bags.cdr(entries[2][2])
    bad = [
        whole[:20],
        whole[: len(whole) // 2],
        bytes(len(whole)),
        b"",
        bags.cdr(bags.raw(rgbs[0], 0, step=3)),
    ]
    for data in bad:
        kind = "sensor_msgs/msg/Image"
        damaged = [*entries[:2], (TOPIC, entries[2][1], (kind, data)), *entries[3:]]
        source, frames = frames_of(write_mcap(tmp_path / "a.mcap", damaged))
        assert (len(frames), source.skipped) == (5, 1)
    first = [(TOPIC, 1, ("sensor_msgs/msg/Image", b"x")), *entries[1:]]
    source, frames = frames_of(write_mcap(tmp_path / "a.mcap", first))
    assert (len(frames), source.skipped) == (5, 1)
    with pytest.raises(SourceError, match="image_raw: it holds no picture that can be decoded"):
        BagSource(write_mcap(tmp_path / "a.mcap", first[:1]))


def test_gaps_stay(tmp_path, rgbs):
    entries = bags.stream(rgbs)
    far = [
        (t, n + 60 * 10**9, bags.raw(rgbs[i], START_NS + i * STEP_NS + 60 * 10**9))
        for i, (t, n, _) in enumerate(entries)
    ]
    source, frames = frames_of(write_mcap(tmp_path / "a.mcap", [*entries[:3], *far[3:]]))
    steps = np.diff([frame.shown_s for frame in frames])
    np.testing.assert_allclose(
        steps, [STEP_NS / 1e9] * 2 + [60 + STEP_NS / 1e9] + [STEP_NS / 1e9] * 2
    )
    assert source.notes == []


@pytest.mark.parametrize(
    ("order", "said"), [([0, 2, 1, 3], "do not grow"), ([2, 3, 0, 1], "do not grow")]
)
def test_stamps_out_of_order_keep_the_order_of_the_recording(tmp_path, rgbs, order, said):
    entries = [
        (TOPIC, START_NS + n * STEP_NS, bags.raw(rgbs[i], START_NS + i * STEP_NS))
        for n, i in enumerate(order)
    ]
    source, frames = frames_of(write_mcap(tmp_path / "a.mcap", entries))
    assert [frame.stamp_ns for frame in frames] == [START_NS + i * STEP_NS for i in order]
    np.testing.assert_array_equal([frame.rgb for frame in frames], rgbs[order])
    assert all(one.shown_s < other.shown_s for one, other in pairwise(frames))
    assert sum(said in note for note in source.notes) == 1


def test_a_clock_that_begins_anew_is_said(tmp_path, rgbs):
    stamps = [10**12, 10**12 + STEP_NS, 5, 5 + STEP_NS]  # a simulation that was started again
    entries = [(TOPIC, START_NS + i, bags.raw(rgbs[i], ns)) for i, ns in enumerate(stamps)]
    source, frames = frames_of(write_mcap(tmp_path / "a.mcap", entries))
    assert [frame.stamp_ns for frame in frames] == stamps
    assert all(one.shown_s < other.shown_s for one, other in pairwise(frames))
    assert any("begin anew" in note for note in source.notes)


def test_without_stamps_the_times_of_recording_serve(tmp_path, rgbs):
    entries = [(TOPIC, START_NS + i * STEP_NS, bags.raw(rgb, 0)) for i, rgb in enumerate(rgbs)]
    source, frames = frames_of(write_mcap(tmp_path / "a.mcap", entries))
    assert [frame.stamp_ns for frame in frames] == [START_NS + i * STEP_NS for i in range(6)]
    assert len(source.notes) == 1
    assert "no stamps of their own" in source.notes[0]


def test_a_simulation_begins_at_the_time_zero(tmp_path, rgbs):
    stamps = [i * STEP_NS for i in range(6)]
    entries = [(TOPIC, START_NS + ns, bags.raw(rgbs[0], ns)) for ns in stamps]
    source, frames = frames_of(write_mcap(tmp_path / "a.mcap", entries))
    assert [frame.stamp_ns for frame in frames] == stamps
    np.testing.assert_allclose([frame.shown_s for frame in frames], np.array(stamps) / 1e9)
    assert source.notes == []


def test_files_out_of_order_are_read_by_the_time_of_recording(tmp_path, rgbs):
    entries = bags.stream(rgbs)
    shuffled = [entries[i] for i in (3, 0, 5, 1, 4, 2)]
    one_each = write_mcap(tmp_path / "a.mcap", shuffled, chunk_size=10)
    source, frames = frames_of(one_each)
    np.testing.assert_array_equal([frame.rgb for frame in frames], rgbs)
    assert source.notes == []


def test_the_camera_is_the_one_of_the_picture(tmp_path, rgbs):
    """A zoom: each CameraInfo is logged before, with or after its picture, and one is missing."""
    entries = bags.stream(rgbs)
    zoom = [
        ("/camera/camera_info", n + delay, bags.info(START_NS + i * STEP_NS, focal=40.0 + i))
        for i, ((_, n, _), delay) in enumerate(zip(entries, (-5, 5, -5, 5, 5, 5), strict=True))
        if i != 4
    ]
    _, frames = frames_of(write_mcap(tmp_path / "a.mcap", by_log_time(entries, zoom)))
    assert [frame.camera.k[0] for frame in frames] == [40, 41, 42, 43, 43, 45]


def test_a_camera_that_says_nothing_or_something_else(tmp_path, rgbs):
    entries = bags.stream(rgbs[:2])
    said = {
        "is not calibrated": bags.infos(2, focal=0.0),
        "for pictures of 64x48": bags.infos(2, hw=(48, 64)),
        "no numbers": bags.infos(2, focal=float("nan")),
    }
    for words, infos in said.items():
        source, frames = frames_of(write_mcap(tmp_path / "a.mcap", by_log_time(entries, infos)))
        assert source.camera is None
        assert [frame.camera for frame in frames] == [None, None]
        assert len(source.notes) == 1
        assert words in source.notes[0]


def test_rectified_pictures_are_seen_through_p(tmp_path, rgbs):
    lens = {"d": (0.1, 0, 0, 0, 0), "model": "plumb_bob", "p_focal": 37.0}
    for topic, focal, d in (("image_raw", 40.0, (0.1, 0, 0, 0, 0)), ("image_rect_color", 37.0, ())):
        entries = by_log_time(bags.stream(rgbs[:1], f"/camera/{topic}"), bags.infos(1, **lens))
        _, (frame,) = frames_of(write_mcap(tmp_path / "a.mcap", entries))
        assert (frame.camera.k[0], frame.camera.d) == (focal, d)


def test_rates_that_no_video_has_are_not_told(tmp_path, rgbs):
    for step_ns, fps in ((1, None), (10**9 * 86400 * 365, None), (10**8, 10)):
        entries = [(TOPIC, START_NS + i * step_ns, bags.raw(rgbs[i], START_NS)) for i in range(2)]
        assert BagSource(write_mcap(tmp_path / "a.mcap", entries)).fps == fps


@pytest.mark.parametrize("package", ["mcap", "rosbags", "zstandard"])
def test_without_the_packages_one_line_names_the_extra(tmp_path, rgbs, package, monkeypatch):
    path = write_mcap(tmp_path / "a.mcap", bags.stream(rgbs))
    for name in [n for n in sys.modules if n.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    cdr._store.cache_clear()
    with pytest.raises(
        UnavailableError, match=r"the package .* pip install 'e2e-deploy\[robotics\]'"
    ):
        BagSource(path)


def test_names_of_hostile_logs_are_made_safe(tmp_path, rgbs):
    entries = bags.stream(rgbs[:1], "/\x1b[31mevil\n", frame_id="\x1b[2J")
    source, (frame,) = frames_of(write_mcap(tmp_path / "a.mcap", entries))
    assert "\x1b" not in source.name + frame.frame_id
    assert "\n" not in source.name


@pytest.mark.parametrize("ending", ["mcap", "db3"])
def test_bytes_that_rot_are_pictures_or_a_sentence(tmp_path, rgbs, ending):
    entries = by_log_time(bags.stream(rgbs[:3]), bags.infos(3))
    if ending == "mcap":
        whole = write_mcap(tmp_path / "a.mcap", entries, chunk_size=3000).read_bytes()
    else:
        whole = (bags.write_folder(tmp_path / "bag", entries) / "bag.db3").read_bytes()
    path, rng, fine = tmp_path / f"b.{ending}", np.random.default_rng(0), 0
    for _ in range(150):
        rotten = np.frombuffer(whole, np.uint8).copy()
        places = rng.integers(0, rng.choice([300, 3000, len(whole)]), 4)
        rotten[places] = rng.integers(0, 256, 4)
        path.write_bytes(rotten.tobytes())
        with suppress(SourceError, UsageError):
            fine += len(list(BagSource(path))) > 0
    assert 5 < fine < 150
