"""Videos that are cut off or damaged: what is good is shown, what is lost is counted or said."""

from contextlib import suppress

import av
import numpy as np
import pytest

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.sources.video_source import VideoSource
from tests.runtime.sources.test_source import refused
from tests.videos import greys, index_in_front, write_video


@pytest.mark.parametrize("share", [0.6, 0.01, 0.0001])
def test_a_truncated_video_whose_index_was_last(tmp_path, bikes, share):
    data = bikes.read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, r"cut.mp4 (is not a video that can be decoded|has no video stream)")


def test_a_truncated_video_whose_index_is_first(tmp_path, streamable):
    data = streamable.read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: int(len(data) * 0.6)])
    seen = []
    with pytest.raises(
        SourceError, match=r"is cut off: [\d,]+ of [\d,]+ bytes are there; \d+ frames"
    ):
        seen.extend(VideoSource(path))
    # extend() keeps nothing of a failed iterable, so count what came before the end.
    iterator, count = iter(VideoSource(path)), 0
    with pytest.raises(SourceError, match="is cut off"):
        while next(iterator) is not None:
            count += 1
    assert 50 < count < 250


@pytest.mark.parametrize("keep", [10, 2000])
def test_a_video_cut_inside_its_header(tmp_path, streamable, keep):
    path = tmp_path / "head.mp4"
    path.write_bytes(streamable.read_bytes()[:keep])
    refused(path, "is not a video that can be decoded")


def test_damaged_frames_are_counted_and_skipped(tmp_path, streamable, rng, capfd):
    data = bytearray(streamable.read_bytes())
    start = data.find(b"mdat") + 200_000
    data[start : start + 30_000] = rng.bytes(30_000)
    path = tmp_path / "scratched.mp4"
    path.write_bytes(data)
    source = VideoSource(path)
    count = sum(1 for _ in source)
    assert source.skipped > 0
    assert 200 < count < 250
    assert capfd.readouterr().err == ""


def packet_at(path, number):
    """(place, bytes) of a packet of a file that holds it in one piece."""
    with av.open(str(path)) as container:
        packets = [bytes(p) for p in container.demux(video=0) if p.size]
    return path.read_bytes().find(packets[number]), packets[number]


def test_a_frame_that_its_decoder_refuses_in_other_words_is_damaged_too(tmp_path):
    """A size of nothing in the header of Sorenson's H.263: "Invalid argument", and no "invalid data"."""
    path = tmp_path / "a.flv"
    write_video(path, greys(12), codec="flv")
    at, packet = packet_at(path, 5)
    data = bytearray(path.read_bytes())
    data[at + 3 : at + 5] = packet[3] | 0b11, packet[4] | 0b10000000
    path.write_bytes(data)
    source = VideoSource(path)
    assert [frame.index for frame in source] == list(range(11))
    assert source.skipped == 1


def test_a_damaged_frame_may_claim_any_size(tmp_path):
    path = tmp_path / "a.mkv"
    write_video(path, greys(12), codec="mjpeg", pixels="yuvj420p")
    at, packet = packet_at(path, 5)
    data = bytearray(path.read_bytes())
    height = at + packet.find(b"\xff\xc0") + 5
    data[height : height + 2] = b"\0\1"
    path.write_bytes(data)
    source = VideoSource(path)
    frames = list(source)
    assert [frame.hw for frame in frames] == [frames[0].hw] * 11
    assert source.skipped == 1
    assert source.notes == [
        f"left out: {path} is {frames[0].hw[1]}x1; both sides must be at least 16 px"
    ]


def one_threaded(path):
    """Times of the good frames as PyAV gives them when nothing is decoded ahead."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        times = []
        for packet in container.demux(stream):
            with suppress(av.FFmpegError):
                pictures = stream.decode(packet if packet.size else None)
                times += [picture.pts * float(stream.time_base) for picture in pictures]
        return times


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "ffv1"])
@pytest.mark.parametrize("options", [{"g": "1"}, {"g": "12"}])
@pytest.mark.parametrize("back", [1, 2, 3, 6])
def test_damage_near_the_end_costs_its_own_frame_alone(tmp_path, codec, options, back, rng):
    """A decoder's threads hold the last frames when the file ends: what is behind a damaged one was lost with it."""
    path = tmp_path / "a.mkv"
    write_video(path, greys(24), codec=codec, options=options)
    at, packet = packet_at(path, 24 - back)
    data = bytearray(path.read_bytes())
    data[at : at + len(packet)] = rng.bytes(len(packet))
    path.write_bytes(data)
    source = VideoSource(path)
    times = [frame.pts_s for frame in source]
    np.testing.assert_allclose(times, one_threaded(path), atol=1e-9)
    assert len(times) + source.skipped >= 24


@pytest.mark.parametrize("lost", [1, 5, 20])
def test_a_damaged_end_is_counted_once(tmp_path, lost):
    path = tmp_path / "a.mkv"
    write_video(path, greys(24), options={"g": "1"})
    data = bytearray(path.read_bytes())
    for number in range(24 - lost, 24):
        at, packet = packet_at(path, number)
        data[at + 4 : at + len(packet)] = bytes(len(packet) - 4)
    path.write_bytes(data)
    source = VideoSource(path)
    assert [frame.index for frame in source] == list(range(24 - lost))
    assert source.skipped == lost


@pytest.mark.parametrize("share", [0.5, 0.93])
@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mkv", "libx264"),
        ("a.webm", "libvpx"),
        ("a.ts", "libx264"),
        ("a.mp4", "libx264"),
        ("a.avi", "mpeg4"),
        ("a.avi", "ffv1"),
        ("a.wmv", "wmv2"),
    ],
)
def test_files_that_end_early(tmp_path, rng, name, codec, share):
    path = tmp_path / name
    pictures = rng.integers(0, 256, (30, 48, 64, 3), dtype=np.uint8)
    write_video(path, pictures, codec=codec, options={"g": "10"})
    if name == "a.mp4":
        path = index_in_front(path, tmp_path / "b.mp4")
    data = path.read_bytes()
    assert len(list(VideoSource(path))) == 30
    path.write_bytes(data[: int(len(data) * share) | 1])  # not between two packets of a .ts
    frames = []
    with pytest.raises(
        SourceError, match=r"is cut off: [\d,]+ of [\d,]+ bytes are there; \d+ frames"
    ):
        for frame in VideoSource(path):
            frames.append(frame)
    assert (5 if share == 0.5 else 20) <= len(frames) < 30


def test_a_matroska_file_whose_end_is_empty(tmp_path, rng):
    """As an unfinished download leaves it: no byte is missing, but the header's duration says more than comes."""
    path = tmp_path / "a.mkv"
    pictures = rng.integers(0, 256, (30, 48, 64, 3), dtype=np.uint8)
    write_video(path, pictures, options={"g": "5"})
    data = path.read_bytes()
    there = len(data) // 2
    path.write_bytes(data[:there] + bytes(len(data) - there))
    with pytest.raises(
        SourceError, match=r"is cut off: it ends at 1\.\d\d s of 3.00 s; 1\d frames"
    ):
        list(VideoSource(path))


def test_an_avi_of_several_riffs_that_ends_early(tmp_path, rng):
    """As files from a gigabyte on: the pictures go on in a second RIFF, which says its own length."""
    path = tmp_path / "a.avi"
    noise = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(10)]
    write_video(path, noise, codec="mjpeg", pixels="yuvj420p")
    data = path.read_bytes()
    at = data.find(b"movi") + 4
    pictures = data[at : at - 8 + int.from_bytes(data[at - 8 : at - 4], "little") + 4]
    listed = b"LIST" + (len(pictures) + 4).to_bytes(4, "little") + b"movi" + pictures
    data += b"RIFF" + (len(listed) + 4).to_bytes(4, "little") + b"AVIX" + listed
    path.write_bytes(data)
    assert len(list(VideoSource(path))) == 20
    path.write_bytes(data[: -len(pictures) // 2])
    indices = []
    with pytest.raises(SourceError, match=r"is cut off: [0-9,]+ of [0-9,]+ bytes are there"):
        for frame in VideoSource(path):
            indices.append(frame.index)
    assert 10 < indices[-1] < 19


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts", "a.wmv", "a.flv"])
def test_damaged_bytes_end_in_a_sentence_or_in_frames_in_order(tmp_path, rng, name):
    write_video(tmp_path / name, greys(8), codec="wmv2" if name == "a.wmv" else "libx264")
    data = np.frombuffer((tmp_path / name).read_bytes(), np.uint8)
    for _ in range(20):
        damaged = data.copy()
        damaged[rng.integers(0, len(data), 12)] = rng.integers(0, 256, 12)
        (tmp_path / name).write_bytes(damaged.tobytes())
        last_s = -1.0
        with suppress(SourceError):
            for frame in VideoSource(tmp_path / name):
                assert last_s < frame.shown_s < 1e6
                last_s = frame.shown_s
