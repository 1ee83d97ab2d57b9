"""A real clip as a robot's log, through ``run``, into another log: written by one library, read by the other."""

import io
import itertools
import json
import os
import signal
import subprocess
import sys

import av
import numpy as np
import pytest
from mcap.reader import SeekingReader
from mcap_ros2.decoder import DecoderFactory
from rosbags.highlevel import AnyReader

import e2e_deploy as e2e
from e2e_deploy.errors import SourceError, UsageError
from e2e_deploy.runtime.camera.intrinsics import Intrinsics
from e2e_deploy.runtime.sources.bag.bag_source import BagSource
from e2e_deploy.runtime.sources.bag.mcap_file import McapFile
from tests import bags
from tests.bags import START_NS, STEP_NS, StoragePlugin, write_mcap
from tests.plain_bundle import plain_depth, plain_normals, write_plain_bundle
from tests.videos import real_clip

HW, COUNT, FOCAL = (272, 640), 8, 525.25
TOPIC, UNDER = "/camera/image_raw", "/camera/e2e_deploy/"
GROUND = {"camera_height_m": 1.5}


@pytest.fixture(scope="module")
def clip():
    with av.open(str(real_clip())) as container:
        frames = itertools.islice(container.decode(video=0), COUNT)
        return [frame.to_ndarray(format="rgb24") for frame in frames]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_plain_bundle(tmp_path_factory.mktemp("bundles") / "depth", sizes=[HW])


@pytest.fixture(scope="module")
def entries(clip):
    """bgr8 as most drivers publish it, each with a CameraInfo, and what else is in a log."""
    found = [("/chatter", START_NS, bags.text("hello"))]
    for i, rgb in enumerate(clip):
        ns = START_NS + i * STEP_NS
        image = bags.raw(rgb, ns, "bgr8", data=rgb[..., ::-1], frame_id="camera_optical")
        info = bags.info(ns, HW, focal=FOCAL, frame_id="camera_optical")
        found += [(TOPIC, ns + 3_000_001, image), ("/camera/camera_info", ns + 3_000_500, info)]
    return found


@pytest.fixture(scope="module")
def log(tmp_path_factory, entries):
    """Written by rosbags."""
    folder = tmp_path_factory.mktemp("logs") / "bag"
    return bags.write_folder(folder, entries, storage=StoragePlugin.MCAP) / "bag.mcap"


def by_mcap(path):
    """{topic without its beginning: [(log time, message)]}, by mcap's reader and mcap-ros2-support."""
    reader = SeekingReader(
        io.BytesIO(path.read_bytes()), validate_crcs=True, decoder_factories=[DecoderFactory()]
    )
    found = {}
    for _, channel, logged, message in reader.iter_decoded_messages():
        found.setdefault(channel.topic.removeprefix(UNDER), []).append((logged.log_time, message))
    return found


def by_rosbags(path):
    """The same by rosbags."""
    found = {}
    with AnyReader([path]) as log:
        for connection, at, raw in log.messages():
            message = log.deserialize(raw, connection.msgtype)
            found.setdefault(connection.topic.removeprefix(UNDER), []).append((at, message))
    return found


def stamp_ns(message):
    stamp = message.header.stamp
    return stamp.sec * 10**9 + getattr(stamp, "nanosec", 0)


def numbers(image, channels=1):
    flat = np.frombuffer(bytes(image.data), np.float32)
    return flat.reshape(image.height, image.width, *[channels] * (channels > 1))


def check_headers(found, name, count=COUNT):
    """Stamps, times of recording and coordinate frames to the last digit."""
    for i, (at, message) in enumerate(found[name]):
        assert stamp_ns(message) == START_NS + i * STEP_NS
        assert at == START_NS + i * STEP_NS + 3_000_001
        assert message.header.frame_id == "camera_optical"
    assert len(found[name]) == count


@pytest.mark.parametrize("ending", ["mcap", "db3"])
def test_round_trip(log, bundle, clip, tmp_path, ending):
    out = tmp_path / f"out.{ending}"
    report = e2e.run(log, bundle, topic=TOPIC, out=out)
    assert (report.frames, report.files, report.complete) == (COUNT, [out], True)
    found = by_mcap(out) if ending == "mcap" else by_rosbags(out)
    assert sorted(found) == ["camera_info", "depth_affine", "metadata"]
    for name in ("depth_affine", "camera_info"):
        check_headers(found, name)
    for (_, image), rgb in zip(found["depth_affine"], clip, strict=True):
        assert (image.encoding, image.height, image.width) == ("32FC1", *HW)
        np.testing.assert_allclose(numbers(image), plain_depth(rgb), atol=1e-6)
    for _, info in found["camera_info"]:
        assert (info.height, info.width, list(info.k)) == (
            *HW,
            [FOCAL, 0, 319.5, 0, FOCAL, 135.5, 0, 0, 1],
        )
    ((_, told),) = found["metadata"]
    (result,) = json.loads(told.data)["results"]
    assert (result["metric"], result["topic"]) == (False, f"{UNDER}depth_affine")
    assert result["units"].startswith("none")


def test_metres_steady_and_points(log, bundle, clip, tmp_path):
    """The camera is the log's own; numbers are those that a sink of one's own gets."""
    out, results = tmp_path / "out.mcap", []

    class Kept:
        name, on_main_thread = "kept", False

        def write(self, frame, result, facts):
            results.append((result, facts))

        def close(self):
            return []

    e2e.run(log, bundle, out=f"{out}?points=1", steady=True, sinks=[Kept()], **GROUND)
    found = by_mcap(out)
    assert sorted(found) == ["camera_info", "depth", "metadata", "points"]
    for name in ("depth", "camera_info", "points"):
        check_headers(found, name)
    for (_, image), (_, cloud), (result, facts) in zip(
        found["depth"], found["points"], results, strict=True
    ):
        assert facts["metric"]
        np.testing.assert_array_equal(numbers(image), result)
        xyz = np.frombuffer(bytes(cloud.data), np.float32).reshape(*HW, 4)[..., :3]
        v, u = np.mgrid[: HW[0], : HW[1]].astype(np.float64)
        z = result.astype(np.float64)
        expected = np.stack([(u - 319.5) * z / FOCAL, (v - 135.5) * z / FOCAL, z], axis=-1)
        np.testing.assert_allclose(xyz, expected, rtol=1e-5, atol=1e-6)
    (told,) = json.loads(found["metadata"][0][1].data)["results"]
    assert (told["metric"], told["units"]) == (True, "metres")


def seen_through(d, focal):
    """What pixels see at z = 1 through a lens of plumb_bob, x and y: by iteration, in float64."""
    k1, k2, p1, p2, k3 = d
    v, u = np.mgrid[: HW[0], : HW[1]].astype(np.float64)
    bent_x, bent_y = (u - (HW[1] - 1) / 2) / focal, (v - (HW[0] - 1) / 2) / focal
    x, y = bent_x, bent_y
    for _ in range(200):
        r2 = x * x + y * y
        radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
        x, y = (
            (bent_x - 2 * p1 * x * y - p2 * (r2 + 2 * x * x)) / radial,
            (bent_y - p1 * (r2 + 2 * y * y) - 2 * p2 * x * y) / radial,
        )
    return x, y


def test_the_ground_and_points_are_seen_through_the_logs_lens(bundle, tmp_path):
    """A camera 1.5 m above the ground that looks down by 45 degrees; its lens bends what the edges see by 30 pixels."""
    d, focal = (-0.2, 0.05, 0.001, -0.002, 0.0), 400.0
    x, y = seen_through(d, focal)
    truth = 1.5 / ((y + 1) * np.sqrt(0.5))
    grey = np.rint((truth - truth.min()) / np.ptp(truth) * 255).astype(np.uint8)
    rgb = np.repeat(grey[..., None], 3, axis=2)

    def log_of(model):
        camera = bags.info(START_NS, HW, focal=focal, d=d, model=model)
        entries = [
            (TOPIC, START_NS, bags.raw(rgb, START_NS)),
            ("/camera/camera_info", START_NS, camera),
        ]
        return write_mcap(tmp_path / f"{model}.mcap", entries)

    ground = {"camera_height_m": 1.5, "camera_pitch_deg": 45.0}
    bent = log_of("plumb_bob")
    e2e.run(
        bent, bundle, out=[tmp_path / "npy", tmp_path / "ply"], formats=["npy", "ply"], **ground
    )
    depth = np.load(next((tmp_path / "npy").glob("*.npy")))
    step_m = np.ptp(truth) / 255
    assert np.abs(depth - truth).max() < step_m
    data = next((tmp_path / "ply").glob("*.ply")).read_bytes().partition(b"end_header\n")[2]
    points = np.frombuffer(data, [("xyz", "<f4", 3), ("rgb", "u1", 3)])["xyz"].reshape(*HW, 3)
    np.testing.assert_allclose(
        points, np.stack([x, y, np.ones(HW)], -1) * depth[..., None], atol=1e-3
    )
    unknown = log_of("a_new_model")
    report = e2e.run(unknown, bundle, out=tmp_path / "b", formats=["npy"], **ground)
    assert any("a lens of model 'a_new_model' cannot be undone" in n for n in report.source.notes)
    with pytest.raises(UsageError, match="no points, because a lens of model 'a_new_model'"):
        e2e.run(unknown, bundle, out=f"{tmp_path / 'c.mcap'}?points=1", **ground)


def test_why_the_logs_camera_is_not_taken_is_said_where_it_is_needed(clip, bundle, tmp_path):
    camera = ("/camera/camera_info", START_NS, bags.info(START_NS, (480, 640)))
    path = write_mcap(tmp_path / "a.mcap", [(TOPIC, START_NS, bags.raw(clip[0], START_NS)), camera])
    with pytest.raises(UsageError, match="says none: /camera/camera_info is for pictures of 640x4"):
        e2e.run(path, bundle, out=tmp_path / "b.mcap", **GROUND)


def test_infinities_stay_what_they_are(log, bundle, tmp_path):
    out = tmp_path / "out.mcap"

    def spoil(frame, result, facts):
        result = result.copy()
        result[0, :3] = np.nan, np.inf, -np.inf
        return result

    e2e.run(log, bundle, out=out, steps=[spoil], limit=2)
    for _, image in by_rosbags(out)["depth_affine"]:
        np.testing.assert_array_equal(numbers(image)[0, :3], [np.nan, np.inf, -np.inf])


def test_normals_are_in_optical_axes(log, clip, tmp_path):
    normals = write_plain_bundle(tmp_path / "normals", sizes=[HW], task="normals")
    for axes in (None, "optical"):
        out = tmp_path / f"{axes}.mcap"
        e2e.run(log, normals, out=[out, tmp_path / "files"], axes=axes, limit=1)
        ((_, image),) = by_rosbags(out)["normals"]
        assert image.encoding == "32FC3"
        expected = plain_normals(clip[0]) * [1, -1, -1]
        np.testing.assert_allclose(numbers(image, 3), expected, atol=1e-6)


def test_several_results_and_two_logs_at_once(log, clip, tmp_path):
    geometry = write_plain_bundle(tmp_path / "geometry", sizes=[HW], task="geometry")
    outs = [tmp_path / "out.mcap", tmp_path / "out.db3"]
    report = e2e.run(log, geometry, out=outs, limit=2)
    assert report.files == outs
    for out in outs:
        found = by_rosbags(out)
        assert sorted(found) == ["camera_info", "depth_affine", "metadata", "normals"]
        for name in ("camera_info", "depth_affine", "normals"):
            check_headers(found, name, 2)
        told = json.loads(found["metadata"][0][1].data)["results"]
        assert [each["topic"] for each in told] == [f"{UNDER}depth_affine", f"{UNDER}normals"]


def test_a_log_of_ours_merges_with_its_source(log, bundle, tmp_path):
    """Both together, by time of recording: each result lies right after its picture."""
    out = tmp_path / "out.mcap"
    e2e.run(log, bundle, out=out)
    with AnyReader([log, out]) as both:
        topics = [
            c.topic for c, _, _ in both.messages() if c.topic in (TOPIC, f"{UNDER}depth_affine")
        ]
    assert topics[0::2] == [TOPIC] * COUNT
    assert topics[1::2] == [f"{UNDER}depth_affine"] * COUNT


def test_results_of_a_log_can_be_read_as_a_source(log, tmp_path):
    """A matte is an ordinary picture; depth is numbers, and that is said."""
    matte = write_plain_bundle(tmp_path / "matte", sizes=[HW], task="matting")
    out = tmp_path / "out.mcap"
    e2e.run(log, matte, out=out, limit=3)
    source = BagSource(out)
    stamps = [frame.stamp_ns for frame in source]
    assert stamps == [START_NS + i * STEP_NS for i in range(3)]
    depth = write_plain_bundle(tmp_path / "depth", sizes=[HW])
    e2e.run(log, depth, out=tmp_path / "depth.mcap", limit=1)
    with pytest.raises(SourceError, match="encoding '32FC1' cannot be read"):
        BagSource(tmp_path / "depth.mcap")


def test_a_film_into_a_log(bundle, clip, tmp_path):
    out = tmp_path / "out.mcap"
    e2e.run(real_clip(), bundle, out=out, intrinsics=Intrinsics(500, 510, 300, 100), limit=COUNT)
    found = by_rosbags(out)
    under = "/e2e_deploy/"
    assert sorted(found) == [
        f"{under}{name}" for name in ("camera_info", "depth_affine", "metadata")
    ]
    for i, ((at, image), (_, info)) in enumerate(
        zip(found[f"{under}depth_affine"], found[f"{under}camera_info"], strict=True)
    ):
        assert stamp_ns(image) == stamp_ns(info) == at == i * 40_000_000  # 25 frames a second
        assert image.header.frame_id == info.header.frame_id == "camera_optical_frame"
        np.testing.assert_array_equal(info.k, [500, 0, 300, 0, 510, 100, 0, 0, 1])
        np.testing.assert_allclose(numbers(image), plain_depth(clip[i]), atol=1e-2)


def test_pictures_and_videos_out_of_a_log(log, bundle, tmp_path):
    report = e2e.run(
        log,
        bundle,
        out=[tmp_path / "out.mp4", tmp_path / "out.mkv", tmp_path / "files"],
        formats="npy",
    )
    with av.open(str(tmp_path / "out.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    np.testing.assert_allclose(times, np.arange(COUNT) * STEP_NS / 1e9, atol=1e-4)
    files = sorted((tmp_path / "files").glob("bag_*.json"))
    told = [json.loads(file.read_text())["source"] for file in files]
    assert [each["stamp_ns"] for each in told] == [START_NS + i * STEP_NS for i in range(COUNT)]
    assert {each["frame_id"] for each in told} == {"camera_optical"}
    assert report.complete


def test_a_cut_log_keeps_what_came_before(entries, bundle, tmp_path):
    path = write_mcap(tmp_path / "a.mcap", entries, chunk_size=1000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SourceError, match=r"cut off: .*; [34] frames could be read"):
        e2e.run(path, bundle, out=tmp_path / "out.mcap")
    found = by_rosbags(tmp_path / "out.mcap")
    assert len(found["depth_affine"]) == len(found["camera_info"]) in (3, 4)


def test_a_log_is_not_written_onto_itself(log, bundle, tmp_path):
    with pytest.raises(UsageError, match="would take the place of"):
        e2e.run(log, bundle, out=log)
    os.link(log, tmp_path / "same.mcap")
    with pytest.raises(UsageError, match="would take the place of"):
        e2e.run(log, bundle, out=f"{tmp_path / 'same.mcap'}?points=0")


RUN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where it is, in the background
import e2e_deploy as e2e
source, bundle, out = sys.argv[1:]
def told(report):
    print(report.frames, flush=True)
report = e2e.run(source, bundle, out=out, on_frame=told)
print("interrupted" if report.interrupted else "whole", flush=True)
"""


def test_after_a_kill_what_was_recorded_can_be_read(tmp_path):
    bundle = write_plain_bundle(tmp_path / "bundle", sizes=[(96, 128)])
    out = tmp_path / "out.mcap"
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, "test:?size=96x128&fps=0", str(bundle), str(out)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        while int(process.stdout.readline()) < 150:
            pass
    finally:
        process.kill()
        process.communicate()
    assert sorted(os.listdir(tmp_path)) == ["bundle", "out.partial.mcap"]
    log, said = McapFile(tmp_path / "out.partial.mcap"), []
    found = list(log.messages(["/e2e_deploy/depth_affine"], said.append))
    assert log.cut
    assert said == []
    assert len(found) >= 100  # all but the last chunk, and what waited


@pytest.mark.parametrize("ending", ["mcap", "db3"])
def test_an_interrupt_leaves_a_whole_file(tmp_path, ending):
    bundle = write_plain_bundle(tmp_path / "bundle")
    out = tmp_path / f"out.{ending}"
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, "test:?size=24x32&fps=0", str(bundle), str(out)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        while int(process.stdout.readline()) < 50:
            pass
        process.send_signal(signal.SIGINT)
        last = process.communicate(timeout=60)[0].split()
    finally:
        process.kill()
    assert last[-1] == "interrupted"
    assert sorted(os.listdir(tmp_path)) == ["bundle", out.name]
    assert len(by_rosbags(out)["/e2e_deploy/depth_affine"]) == int(last[-2]) >= 50
