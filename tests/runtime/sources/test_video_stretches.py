"""Wherever a video is split, and whoever decodes which part, its frames are those of the whole, each once."""

import struct

import av
import cv2
import numpy as np
import pytest

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.sources import video_stretches
from e2e_deploy.runtime.sources.video_source import VideoSource
from e2e_deploy.runtime.sources.video_stretches import frames_of, plan
from tests.videos import write_video

COUNT = 48
CLOSED = {"x264-params": "keyint=12:bframes=3:b-adapt=0:scenecut=0"}
OPEN = {"x264-params": f"open-gop=1:min-keyint=12:{CLOSED['x264-params']}"}
KINDS = {
    "closed.mp4": {"options": CLOSED},
    "open.mp4": {"options": OPEN},
    "open.mkv": {"options": OPEN},
    "open.ts": {"options": OPEN},
    "turned.mov": {"options": CLOSED, "turn": 90},
    "hdr.mkv": {"options": CLOSED, "colours": (9, 9, 16, 1)},
    "wide.mkv": {"options": CLOSED, "aspect": 2},
    "fields.mp4": {"options": {"g": "12", "bf": "2"}, "interlaced": True},
    "refresh.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=12:bframes=0"}},
    "uneven.mp4": {"options": CLOSED, "ticks": "uneven"},
    "uneven.mkv": {"options": OPEN, "ticks": "uneven"},
    "hevc.mp4": {
        "codec": "libx265",
        "options": {"x265-params": "keyint=12:min-keyint=12:open-gop=1:scenecut=0:log-level=0"},
    },
    "vp8.webm": {"codec": "libvpx", "options": {"g": "12", "cpu-used": "8"}},
    "old.avi": {"codec": "mpeg4", "options": {"g": "12", "bf": "0"}},
    "mpeg2.ts": {"codec": "mpeg2video", "rate": 25, "options": {"g": "12", "bf": "2"}},
}
COUNTED = {"order.avi": {"options": CLOSED}, "raw.h264": {"options": CLOSED}}


def moving(count=COUNT, height=32, width=48):
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    big = cv2.resize(noise, (3 * width, 3 * height))
    return [big[2 * (i % 30) :, 3 * (i % 30) :][:height, :width] for i in range(count)]


def written(folder, name, about):
    if about.get("codec", "libx264") not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no encoder {about['codec']}")
    if "ticks" in about:
        steps = np.random.default_rng(1).integers(5, 90, COUNT)
        about = about | {"ticks": np.cumsum(steps).tolist()}
    path = folder / name
    # x265 writes beyond its memory where a picture is narrower than 64 pixels, and the process ends now and then.
    size_hw = (64, 96) if about.get("codec") == "libx265" else (32, 48)
    write_video(path, moving(COUNT, *size_hw), **about)
    return path


def whole(path):
    return [(frame.pts_s, frame.rgb.tobytes(), frame.hw) for frame in VideoSource(path)]


def parts_of(frames, rng, least=1):
    """Runs of frames of one stretch each, split at random, in any order."""
    begins = [0]
    for at in range(1, len(frames)):
        new = frames[at][1] is not frames[at - 1][1]
        if new or (at - begins[-1] >= least and rng.random() < 0.2):
            begins.append(at)
    runs = [range(a, b) for a, b in zip(begins, [*begins[1:], len(frames)], strict=True)]
    rng.shuffle(runs)
    return runs


def put_together(path, frames, runs):
    found = {}
    for run in runs:
        wanted = [(at, frames[at][0].stamp_s) for at in run]
        pictures = frames_of(VideoSource(path), frames[run[0]][1], wanted)
        for at, picture in zip(run, pictures, strict=True):
            assert at not in found
            found[at] = picture
    return [found[at] for at in range(len(frames))]


def seen(frames, pictures):
    return [
        p if isinstance(p, str) else (shown.time.pts_s, p.rgb.tobytes(), p.rgb.shape[:2])
        for (shown, _), p in zip(frames, pictures, strict=True)
    ]


@pytest.mark.parametrize("name", KINDS)
def test_parts_are_the_whole_wherever_it_is_split(tmp_path, name, rng):
    path = written(tmp_path, name, KINDS[name])
    expected = whole(path)
    assert len(expected) == COUNT
    for least in (1, 20):
        found = plan(path, least)
        assert len({id(stretch) for _, stretch in found.frames}) > 1
        assert found.missing == ""
        pictures = put_together(path, found.frames, parts_of(found.frames, rng))
        assert seen(found.frames, pictures) == expected


@pytest.mark.parametrize("name", COUNTED)
def test_where_packets_do_not_tell_frames_are_counted(tmp_path, name, rng):
    path = written(tmp_path, name, COUNTED[name])
    found = plan(path, 1)
    assert "was decoded once to count its frames" in found.notes[-1]
    assert len({id(stretch) for _, stretch in found.frames}) == 1
    pictures = put_together(path, found.frames, parts_of(found.frames, rng, 20))
    assert seen(found.frames, pictures) == whole(path)


def test_recordings_that_were_joined_or_begin_in_the_middle(tmp_path, rng):
    path = written(tmp_path, "open.ts", KINDS["open.ts"])
    data = path.read_bytes()
    middle = 188 * (len(data) // 188 // 7)
    for name, content in (("joined.ts", data + data), ("middle.ts", data[middle:])):
        other = tmp_path / name
        other.write_bytes(content)
        found = plan(other, 1)
        pictures = put_together(other, found.frames, parts_of(found.frames, rng))
        assert seen(found.frames, pictures) == whole(other)


def test_pictures_that_nobody_sees_are_no_frames(tmp_path, rng):
    """As VP8 keeps some for others to refer to: every fifth here, which only its flag says."""
    path, other = written(tmp_path, "plain.webm", KINDS["vp8.webm"]), tmp_path / "hidden.webm"
    with av.open(str(path)) as source, av.open(str(other), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(source.streams.video[0])):
            if packet.size:
                data = bytearray(packet)
                data[0] &= 0xFF if number % 5 else 0xEF
                new = av.Packet(bytes(data))
                new.pts, new.dts, new.time_base = packet.pts, packet.dts, packet.time_base
                new.is_keyframe, new.stream = packet.is_keyframe, stream
                target.mux(new)
    expected = whole(other)
    assert len(expected) == COUNT - 10
    found = plan(other, 1)
    pictures = put_together(other, found.frames, parts_of(found.frames, rng))
    assert seen(found.frames, pictures) == expected


def test_frames_that_an_edit_list_leaves_out_are_not_there(tmp_path, rng):
    path = written(tmp_path, "closed.mp4", KINDS["closed.mp4"])
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 16  # version, count, duration; then where in the media it begins
    (begin,) = struct.unpack_from(">i", data, at)
    timescale = av.open(str(path)).streams.video[0].time_base.denominator
    struct.pack_into(">i", data, at, begin + timescale * 7 // 10)  # seven frames of ten a second
    path.write_bytes(data)
    expected = whole(path)
    assert len(expected) == COUNT - 7
    found = plan(path, 1)
    pictures = put_together(path, found.frames, parts_of(found.frames, rng))
    assert seen(found.frames, pictures) == expected


@pytest.mark.parametrize("name", ["open.mkv", "open.ts"])
def test_damage_costs_its_frames_alone(tmp_path, name, rng):
    path = written(tmp_path, name, KINDS[name])
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 1500] = rng.bytes(1500)
    path.write_bytes(data)
    found = plan(path, 1)
    pictures = put_together(path, found.frames, parts_of(found.frames, rng))
    damaged = [each for each in pictures if isinstance(each, str)]
    assert all("is damaged at" in why for why in damaged)
    assert COUNT - 20 < len(pictures) - len(damaged) < COUNT


def test_a_video_that_is_cut_off_says_so(tmp_path):
    path = written(tmp_path, "open.mkv", KINDS["open.mkv"])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    found = plan(path, 1)
    assert "bytes are there" in found.missing
    assert 10 < len(found.frames) < COUNT


def test_a_file_that_is_not_what_was_planned(tmp_path):
    path = written(tmp_path, "closed.mp4", KINDS["closed.mp4"])
    found = plan(path, 1)
    shown, stretch = found.frames[-1]
    write_video(path, moving(30), options=OPEN)
    with pytest.raises(SourceError, match="is not what it was when it was listed"):
        list(frames_of(VideoSource(path), stretch, [(COUNT - 1, shown.stamp_s)]))


def test_where_seeking_leads_astray_it_is_read_from_the_start(tmp_path, rng, monkeypatch):
    path = written(tmp_path, "open.mkv", KINDS["open.mkv"])
    found = plan(path, 1)
    monkeypatch.setattr(video_stretches._Reading, "_sought", lambda self, mark: None)
    pictures = put_together(path, found.frames, parts_of(found.frames, rng, 12))
    assert seen(found.frames, pictures) == whole(path)
