"""Logs that are written, as other libraries read them: rosbags those of the package mcap, mcap's own reader both."""

import io
import json
import os
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
from mcap.exceptions import EndOfFile
from mcap.reader import NonSeekingReader, SeekingReader
from mcap.records import Channel, Message
from mcap.stream_reader import StreamReader
from mcap_ros2.decoder import DecoderFactory
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability, QosReliability
from rosbags.rosbag2 import Reader

from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.runtime.camera.camera_info import CameraInfo
from e2e_deploy.runtime.camera.intrinsics import Intrinsics
from e2e_deploy.runtime.sinks.bag.bag_sink import BagSink
from e2e_deploy.runtime.sinks.opening import Opening
from e2e_deploy.runtime.sources.pattern import PatternSource
from e2e_deploy.runtime.sources.source import SourceFrame

HW = (24, 32)
START_NS = 1_700_000_000_123_456_789
CAMERA = CameraInfo.of(Intrinsics(40.0, 41.0, 15.5, 11.5), HW)


def opening(manifest, *, topic="/cam/image_raw", intrinsics=None, is_metric=False):
    source = PatternSource(*HW, total=1)
    source.topic = topic
    return Opening(manifest, source, intrinsics, "spectral", False, is_metric)


def frame(rng, index, **given):
    stamp_ns = START_NS + index * 33_333_333
    rgb = rng.integers(0, 256, (*HW, 3), dtype=np.uint8)
    told = {"stamp_ns": stamp_ns, "frame_id": "cam", "camera": CAMERA, "logged_ns": stamp_ns + 7}
    return SourceFrame(rgb, index, None, "a", shown_s=index / 30, **(told | given))


def depths(rng, count):
    found = rng.random((count, *HW), dtype=np.float32)
    found[0, 0, :3] = np.nan, np.inf, -np.inf
    return found


def write(path, manifest, rng, results, facts=None, **arguments):
    sink = BagSink(str(path), opening(manifest, **arguments))
    for i, result in enumerate(results):
        sink.write(frame(rng, i), result, facts or {})
    return sink.close()


@pytest.mark.parametrize("ending", ["mcap", "db3"])
def test_rosbags_reads_what_is_written(tmp_path, manifests, rng, ending):
    path = tmp_path / f"out.{ending}"
    results = depths(rng, 5)
    assert write(path, manifests["depth"], rng, results) == [path]
    assert os.listdir(tmp_path) == [path.name]
    with Reader(path) as log:
        kinds = {c.topic: (c.msgtype, c.msgcount) for c in log.connections}
        qos = {c.topic: c.ext.offered_qos_profiles for c in log.connections}
        assert (log.start_time, log.end_time) == (START_NS + 7, START_NS + 7 + 4 * 33_333_333 + 1)
    under = "/cam/e2e_deploy/"
    assert kinds == {
        f"{under}metadata": ("std_msgs/msg/String", 1),
        f"{under}depth_affine": ("sensor_msgs/msg/Image", 5),
        f"{under}camera_info": ("sensor_msgs/msg/CameraInfo", 5),
    }
    latched = {topic: offered[0].durability for topic, offered in qos.items()}
    assert latched.pop(f"{under}metadata") == QosDurability.TRANSIENT_LOCAL
    assert set(latched.values()) == {QosDurability.VOLATILE}
    assert {offered[0].reliability for offered in qos.values()} == {QosReliability.RELIABLE}
    with AnyReader([path]) as log:  # with the definitions that are in the file
        found = [(c.topic, at, log.deserialize(raw, c.msgtype)) for c, at, raw in log.messages()]
    images = [(at, m) for topic, at, m in found if topic.endswith("depth_affine")]
    infos = [(at, m) for topic, at, m in found if topic.endswith("camera_info")]
    for i, ((at, image), (_, info)) in enumerate(zip(images, infos, strict=True)):
        stamp_ns = image.header.stamp.sec * 10**9 + image.header.stamp.nanosec
        assert (stamp_ns, at) == (START_NS + i * 33_333_333, START_NS + 7 + i * 33_333_333)
        assert image.header == info.header
        assert (image.header.frame_id, image.encoding, image.step) == ("cam", "32FC1", 128)
        np.testing.assert_array_equal(image.data.view(np.float32).reshape(HW), results[i])
        np.testing.assert_array_equal(info.k, CAMERA.k)
    (told,) = [json.loads(m.data) for topic, _, m in found if topic.endswith("metadata")]
    assert told["results"][0]["metric"] is False


def test_the_index_of_a_file_holds(tmp_path, manifests, rng, monkeypatch):
    """What Foxglove's player and mcap's doctor look at: profile, schemas, sums, offsets, the order of a summary."""
    monkeypatch.setattr("e2e_deploy.runtime.sinks.bag.mcap_recording.CHUNK_BYTES", 8000)
    (path,) = write(tmp_path / "out.mcap", manifests["depth"], rng, depths(rng, 12))
    data = path.read_bytes()
    everything = list(
        StreamReader(io.BytesIO(data), validate_crcs=True).records
    )  # each chunk's sum
    reader = SeekingReader(
        io.BytesIO(data), validate_crcs=True, decoder_factories=[DecoderFactory()]
    )
    summary = reader.get_summary()
    assert reader.get_header().profile == "ros2"
    assert [record.name for record in reader.iter_metadata()] == ["rosbag2"]
    statistics = summary.statistics
    assert (statistics.message_count, statistics.schema_count, statistics.channel_count) == (
        25,
        3,
        3,
    )
    assert statistics.chunk_count == len(summary.chunk_indexes) > 2
    assert {s.encoding for s in summary.schemas.values()} == {"ros2msg"}
    assert {c.message_encoding for c in summary.channels.values()} == {"cdr"}
    assert {chunk.compression for chunk in summary.chunk_indexes} == {"zstd"}
    topics = {number: channel.topic for number, channel in summary.channels.items()}
    for chunk in summary.chunk_indexes:
        assert data[chunk.chunk_start_offset] == 6
        assert chunk.message_index_offsets
        for number, place in chunk.message_index_offsets.items():
            assert data[place] == 7  # a message index
            assert int.from_bytes(data[place + 9 : place + 11], "little") == number
    assert {c.topic for c in everything if isinstance(c, Channel)} == set(topics.values())
    assert sum(isinstance(record, Message) for record in everything) == 25
    decoded = list(reader.iter_decoded_messages())
    assert [each.message.log_time for each in decoded] == sorted(
        each.message.log_time for each in decoded
    )
    assert {each.message.publish_time - each.message.log_time for each in decoded} == {0}
    assert len(list(NonSeekingReader(io.BytesIO(data)).iter_messages(log_time_order=False))) == 25


def test_rerun_checks_it_and_knows_what_it_is(tmp_path, manifests, rng):
    """A third reader, in Rust: its own check, and its own pictures of depth, cameras and points."""
    facts = {"metric": True, "units": "m"}
    (path,) = write(
        f"{tmp_path / 'out.mcap'}?points=1",
        manifests["depth"],
        rng,
        depths(rng, 4),
        facts,
        is_metric=True,
        intrinsics=Intrinsics(50, 50, 15, 11),
    )
    alone = os.environ | {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}

    def rerun(*words):
        command = [sys.executable, "-m", "rerun", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, env=alone, timeout=100)
        assert done.returncode == 0, done.stderr
        return done.stdout

    checked = [line.split() for line in rerun("mcap", "check", path).splitlines()]
    assert {words[3].rpartition("/")[2] for words in checked if words[:1] == ["ok"]} == {
        *("metadata", "depth", "camera_info", "points")
    }
    rerun("mcap", "convert", path, "-o", tmp_path / "out.rrd")
    told = rerun("rrd", "print", tmp_path / "out.rrd")
    for known in ("DepthImage:buffer", "Pinhole:image_from_camera", "Points3D:positions"):
        assert known in told


def test_the_database_is_rosbag2s(tmp_path, manifests, rng):
    (path,) = write(tmp_path / "out.db3", manifests["depth"], rng, depths(rng, 2))
    base = sqlite3.connect(path)
    assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert base.execute("SELECT schema_version FROM schema").fetchone() == (4,)
    rows = base.execute(
        "SELECT topic_type, encoding, type_description_hash FROM message_definitions"
    )
    kinds = {kind: (encoding, digest[:7]) for kind, encoding, digest in rows}
    assert set(kinds.values()) == {("ros2msg", "RIHS01_")}
    assert len(kinds) == 3
    # REP-2011's hash of std_msgs/msg/String, as ROS 2 prints it.
    ((digest,),) = base.execute(
        "SELECT type_description_hash FROM topics WHERE type = 'std_msgs/msg/String'"
    )
    assert digest == "RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18"
    base.close()


@pytest.mark.parametrize("given", ["", "?points=1", "?points=1&prefix=/robot/depth"])
def test_metres_and_points(tmp_path, manifests, rng, given):
    results = 1 + 9 * depths(rng, 2)
    facts = {"metric": True, "units": "m"}
    path = tmp_path / "out.mcap"
    assert write(
        f"{path}{given}",
        manifests["depth"],
        rng,
        results,
        facts,
        is_metric=True,
        intrinsics=Intrinsics(50, 50, 15, 11),
    ) == [path]
    reader = SeekingReader(io.BytesIO(path.read_bytes()), decoder_factories=[DecoderFactory()])
    found = {}
    for _, channel, _, message in reader.iter_decoded_messages():
        found.setdefault(channel.topic, []).append(message)
    under = "/robot/depth/" if "prefix" in given else "/cam/e2e_deploy/"
    names = ["camera_info", "depth", "metadata", *["points"] * bool(given)]
    assert sorted(found) == [under + name for name in names]
    assert found[f"{under}camera_info"][0].k[0] == 50  # as the user says, over the frame's own
    if given:
        cloud = found[f"{under}points"][1]
        floats = np.frombuffer(cloud.data, np.float32).reshape(*HW, 4)
        z = results[1].astype(np.float64)
        np.testing.assert_allclose(floats[..., 2], z, rtol=1e-6)
        np.testing.assert_allclose(floats[..., 0], (np.arange(32) - 15) * z / 50, rtol=1e-5)


def test_millimetres_saturate_and_know_no_infinity(tmp_path, manifests, rng):
    metres = np.full(HW, 1.2345, np.float32)
    metres[0, :6] = np.nan, np.inf, -np.inf, 0.0004, 65.5354, 70.0
    path, facts = tmp_path / "out.mcap", {"metric": True, "units": "m"}
    write(f"{path}?depth_raw=1", manifests["depth"], rng, metres[None], facts, is_metric=True)
    reader = SeekingReader(io.BytesIO(path.read_bytes()), decoder_factories=[DecoderFactory()])
    found = {
        c.topic.rpartition("/")[2]: m
        for _, c, _, m in reader.iter_decoded_messages()
        if "depth" in c.topic.rpartition("/")[2]
    }
    raw = found["depth_raw"]
    stored = np.frombuffer(raw.data, "<u2").reshape(HW)
    assert (raw.encoding, raw.step, raw.is_bigendian) == ("16UC1", 2 * HW[1], 0)
    assert stored[0, :6].tolist() == [0, 0, 0, 0, 65535, 65535]
    assert (stored[1:] == 1234).all() or (stored[1:] == 1235).all()
    assert raw.header.stamp == found["depth"].header.stamp


def test_pictures_without_any_clock_have_the_wall_clocks(tmp_path, manifests, rng):
    sink = BagSink(str(tmp_path / "a.mcap"), opening(manifests["depth"], topic=""))
    for i in range(2):
        sink.write(
            frame(rng, i, stamp_ns=None, logged_ns=None, frame_id="", camera=None),
            depths(rng, 1)[0],
            {},
        )
    (path,) = sink.close()
    with AnyReader([path]) as log:
        found = [(c.topic, at, log.deserialize(raw, c.msgtype)) for c, at, raw in log.messages()]
    assert {topic for topic, _, _ in found} == {"/e2e_deploy/metadata", "/e2e_deploy/depth_affine"}
    for at, image in ((at, m) for topic, at, m in found if topic.endswith("affine")):
        assert image.header.stamp.sec * 10**9 + image.header.stamp.nanosec == at
        assert image.header.frame_id == "camera_optical_frame"


def test_settings_and_points_that_cannot_be(tmp_path, manifests):
    for given, said in (
        ("?point=1", "no setting point; there are prefix, points, depth_raw"),
        ("?points=yes", "points is 0 or 1, not 'yes'"),
        ("?depth_raw=on", "depth_raw is 0 or 1, not 'on'"),
        ("?depth_raw=1", "depth_raw is metric depth, which needs `metric_points`"),
        ("?points=1", "points need metric depth"),
        ("?prefix=a b", "prefix is 'a b'; it is absolute"),
        ("?prefix=", "prefix is ''; it is absolute"),
        ("?prefix=/a&prefix=/b", "a setting twice"),
    ):
        with pytest.raises(UsageError, match=said):
            BagSink(f"{tmp_path / 'a.mcap'}{given}", opening(manifests["depth"]))
    with pytest.raises(UsageError, match="a camera that is known"):
        BagSink(f"{tmp_path / 'a.mcap'}?points=1", opening(manifests["depth"], is_metric=True))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("ending", ["mcap", "db3"])
def test_nothing_is_left_of_nothing(tmp_path, manifests, rng, ending):
    assert write(tmp_path / f"a.{ending}", manifests["depth"], rng, []) == []
    assert os.listdir(tmp_path) == []
    (tmp_path / f"b.{ending}").mkdir()
    with pytest.raises(E2EDeployError, match="it is a folder, not a file"):
        BagSink(str(tmp_path / f"b.{ending}"), opening(manifests["depth"]))
    (tmp_path / "file").write_text("x")
    with pytest.raises(E2EDeployError, match="could not be written"):
        BagSink(str(tmp_path / f"file/b.{ending}"), opening(manifests["depth"]))


def test_times_that_no_log_holds(tmp_path, manifests, rng):
    sink = BagSink(str(tmp_path / "a.mcap"), opening(manifests["depth"]))
    for ns in (-1, 2**63):
        with pytest.raises(E2EDeployError, match="no message of the time"):
            sink.write(frame(rng, 0, logged_ns=ns), depths(rng, 1)[0], {})
    assert sink.close() == []


class FullDisk:
    """A stream that has room for so many bytes."""

    def __init__(self, stream, room):
        self._stream, self._room = stream, room

    def write(self, data):
        self._room -= len(data)
        if self._room < 0:
            raise OSError(28, "No space left on device")
        return self._stream.write(data)

    def __getattr__(self, name):
        return getattr(self._stream, name)


def test_a_full_disk_keeps_what_was_recorded(tmp_path, manifests, rng, monkeypatch):
    monkeypatch.setattr("e2e_deploy.runtime.sinks.bag.mcap_recording.CHUNK_BYTES", 3000)
    sink = BagSink(str(tmp_path / "a.mcap"), opening(manifests["depth"]))
    recording = sink._recording
    recording._writer._Writer__stream = FullDisk(recording._stream, 20_000)
    with pytest.raises(
        E2EDeployError, match=r"No space left on device; what .* is in .*a\.partial\.mcap"
    ):
        for i in range(50):
            sink.write(frame(rng, i), depths(rng, 1)[0], {})
    assert sink.close() == []
    assert os.listdir(tmp_path) == ["a.partial.mcap"]
    found = NonSeekingReader(io.BytesIO((tmp_path / "a.partial.mcap").read_bytes()))
    count = 0
    with pytest.raises(EndOfFile):
        for _ in found.iter_messages(log_time_order=False):
            count += 1
    assert count > 5


def test_a_broken_database_leaves_nothing(tmp_path, manifests, rng, monkeypatch):
    sink = BagSink(str(tmp_path / "a.db3"), opening(manifests["depth"]))
    sink.write(frame(rng, 0), depths(rng, 1)[0], {})

    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sink._recording._writer, "write", full)
    with pytest.raises(
        E2EDeployError, match=r"a\.db3 could not be written: database or disk is full"
    ):
        sink.write(frame(rng, 1), depths(rng, 1)[0], {})
    assert sink.close() == []
    assert os.listdir(tmp_path) == []


def test_what_a_kill_left_of_a_database_goes_with_the_next(tmp_path, manifests, rng):
    left = tmp_path / ".a.db3-recording.partial-0123abcd"
    left.mkdir()
    (left / "bag.db3").write_bytes(b"half")
    given = opening(manifests["depth"])
    sink = BagSink(str(tmp_path / "a.db3"), given)
    sink.write(frame(rng, 0), depths(rng, 1)[0], {})
    assert sink.close() == [tmp_path / "a.db3"]
    assert os.listdir(tmp_path) == ["a.db3"]
    assert any("a killed process had half written" in note for note in given.source.notes)
