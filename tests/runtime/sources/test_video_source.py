import gc
import os
from contextlib import suppress
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.sources.uris import open_source
from e2e_deploy.runtime.sources.video_source import VideoSource
from tests.runtime.sources.test_source import refused
from tests.videos import real_clip, write_streams, write_video


@pytest.fixture(scope="session")
def bikes():
    return real_clip()


@pytest.fixture(scope="session")
def streamable(bikes, tmp_path_factory):
    """The same clip with its index in front, as videos for the web have it."""
    path = tmp_path_factory.mktemp("clips") / "streamable.mp4"
    with (
        av.open(str(bikes)) as source,
        av.open(str(path), "w", options={"movflags": "+faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return path


def test_a_video_gives_every_frame_in_order(bikes):
    source = open_source(str(bikes))
    assert (source.total, source.fps, source.is_video) == (250, 25.0, True)
    frames = list(source)
    assert [f.index for f in frames] == list(range(250))
    np.testing.assert_allclose([f.pts_s for f in frames], np.arange(250) / 25, atol=1e-6)
    assert {(f.rgb.dtype.name, f.rgb.shape) for f in frames} == {("uint8", (272, 640, 3))}
    assert frames[0].rgb.std() > 10
    assert source.skipped == 0


def test_a_video_is_rgb(tmp_path):
    path = tmp_path / "red.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        red = np.zeros((48, 64, 3), np.uint8)
        red[..., 0] = 220
        for packet in [*stream.encode(av.VideoFrame.from_ndarray(red)), *stream.encode()]:
            container.mux(packet)
    (frame,) = open_source(str(path))
    assert frame.rgb[..., 0].min() > 200
    assert frame.rgb[..., 1:].max() < 30


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


def test_text_named_as_a_video(tmp_path):
    path = tmp_path / "text.mp4"
    path.write_text("hello")
    refused(path, "is not a video that can be decoded")


def test_sound_alone_is_no_video(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    refused(path, "has no video stream")


PLAYLISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n",
    "list.mp4": "ffconcat version 1.0\nfile other.ts\n",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_may_not_open_other_files(tmp_path, bikes, name):
    with av.open(str(bikes)) as source, av.open(str(tmp_path / "other.ts"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    (tmp_path / name).write_text(PLAYLISTS[name])
    with av.open(str(tmp_path / name)) as opened:  # by default FFmpeg follows it
        assert opened.streams.video
    refused(tmp_path / name, f"{name} is not a video that can be decoded")
    assert next(iter(open_source(str(tmp_path / "other.ts")))).rgb.shape == (272, 640, 3)


@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".mov", ".ts", ".webm", ".gif"])
def test_the_usual_containers(tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    codec = {".webm": "libvpx", ".gif": "gif"}.get(suffix, "libx264")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "rgb8" if suffix == ".gif" else "yuv420p"
        for value in (0, 100, 200):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), value, np.uint8))
            for packet in stream.encode(picture.reformat(format=stream.pix_fmt)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    frames = list(open_source(str(path)))
    assert [round(float(f.rgb.mean()), -2) for f in frames] == [0, 100, 200]


def greys(count, hw=(48, 64)):
    return [np.full((*hw, 3), 8 * index, np.uint8) for index in range(count)]


TICKS = [0, 100, 200, 300, 400, 900, 1400, 1900, 5900, 6000]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("start", [0, 2500])
def test_frames_keep_uneven_times(tmp_path, suffix, start):
    ticks = [start + tick for tick in TICKS]
    write_video(tmp_path / f"a{suffix}", greys(10), ticks=ticks)
    source = VideoSource(tmp_path / f"a{suffix}")
    frames = list(source)
    np.testing.assert_allclose([f.pts_s for f in frames], np.array(ticks) / 1000, atol=1e-3)
    np.testing.assert_allclose([f.shown_s for f in frames], np.array(TICKS) / 1000, atol=1e-3)
    assert [round(float(f.rgb.mean()) / 8) for f in frames] == list(range(10))
    assert source.notes == []


@pytest.mark.parametrize("rate", [Fraction(24), Fraction(30000, 1001)])
@pytest.mark.parametrize(
    ("name", "codec", "form"),
    [
        ("a.h264", "libx264", "h264"),
        ("a.webm", "libvpx", None),
        ("a.wmv", "wmv2", None),
        ("a.ts", "libx264", None),
        ("a.avi", "libx264", None),
        ("a.flv", "libx264", None),
        ("a.ogv", "libvpx", "ogg"),
    ],
)
def test_sources_that_declare_no_rate_or_order(tmp_path, name, codec, form, rate):
    """Raw streams have no times, AVI those of decoding; a made-up rate or order would show here."""
    write_video(tmp_path / name, greys(12), codec=codec, rate=rate, form=form)
    source = VideoSource(tmp_path / name)
    frames = list(source)
    step = 1 / rate
    np.testing.assert_allclose([f.shown_s for f in frames], np.arange(12) * float(step), atol=1e-3)
    assert source.fps == pytest.approx(float(rate), rel=0.01)
    assert frames[-1].duration_s == pytest.approx(float(step), abs=1.1e-3)
    assert source.notes == []


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


def index_in_front(path, target):
    """The same packets in another file; for tests with the index before the pictures."""
    with (
        av.open(str(path)) as source,
        av.open(str(target), "w", options={"movflags": "+faststart"}) as copy,
    ):
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    return target


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
    frames = []
    with pytest.raises(SourceError, match=r"is cut off: [0-9,]+ of [0-9,]+ bytes are there"):
        frames += (frame.index for frame in VideoSource(path))
    assert len(frames) == 0 or frames[-1] > 10


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_a_file_that_is_moved_while_it_is_read(tmp_path, name):
    """As folders of finished recordings do; what was opened is read to its end."""
    write_video(tmp_path / name, greys(12))
    indices = []
    for frame in VideoSource(tmp_path / name):
        indices.append(frame.index)
        (tmp_path / name).unlink(missing_ok=True)
    assert indices == list(range(12))


@pytest.mark.parametrize("name", ["a.ts", "a.mpg"])
def test_pixels_that_change_their_shape_within_a_broadcast(tmp_path, name):
    """From 16:9 to 4:3, of the same 720 pixels; frames that wait in the decoder then may be of either shape."""
    data = b""
    for aspect in (Fraction(64, 45), Fraction(16, 15)):
        pictures = greys(12, (576, 720))
        write_video(tmp_path / name, pictures, codec="mpeg2video", rate=25, aspect=aspect)
        data += (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data)
    widths = [frame.hw[1] for frame in VideoSource(tmp_path / name)]
    assert (widths[:10], widths[-10:]) == ([1024] * 10, [768] * 10)


def test_empty_chunks_of_an_avi_are_not_missing(tmp_path):
    """A recorder that dropped frames: the header counts their chunks."""
    ticks = [0, 100, 200, 600, 700, 1200]
    write_video(tmp_path / "a.avi", greys(6), codec="mpeg4", ticks=ticks, options={"bf": "0"})
    source = VideoSource(tmp_path / "a.avi")
    assert source.total > 6
    frames = list(source)
    np.testing.assert_allclose([f.shown_s for f in frames], np.array(ticks) / 1000, atol=2e-3)


def test_a_film_trimmed_by_an_edit_list_is_whole(tmp_path):
    """Cut without encoding it again: frames before the cut are in the file, and not shown."""
    write_video(tmp_path / "a.mp4", greys(20), options={"g": "10", "bf": "0"})
    with av.open(str(tmp_path / "a.mp4")) as source:
        film = source.streams.video[0]
        with av.open(
            str(tmp_path / "b.mp4"), "w", options={"avoid_negative_ts": "disabled"}
        ) as copy:
            stream = copy.add_stream_from_template(film)
            for packet in source.demux(film):
                if packet.dts is not None:
                    packet.pts -= 6 * packet.duration
                    packet.dts -= 6 * packet.duration
                    packet.stream = stream
                    copy.mux(packet)
    source = VideoSource(tmp_path / "b.mp4")
    assert source.total == 20
    frames = list(source)
    assert [round(float(f.rgb.mean()) / 8) for f in frames] == list(range(6, 20))
    np.testing.assert_allclose([f.shown_s for f in frames], np.arange(14) / 10, atol=1e-6)


def test_a_cover_picture_is_not_the_film(tmp_path):
    path = tmp_path / "a.mp4"
    write_streams(path, {"mjpeg": (300, 400), "libx264": (48, 64)}, mjpeg=Disposition.attached_pic)
    assert [f.hw for f in VideoSource(path)] == [(48, 64)] * 5
    write_streams(path, {"mjpeg": (300, 400)}, mjpeg=Disposition.attached_pic)
    refused(path, "has no video stream but a cover picture")


def test_a_cover_attached_to_matroska(tmp_path):
    path = tmp_path / "a.mkv"
    cover = cv2.imencode(".jpg", np.zeros((300, 400, 3), np.uint8))[1].tobytes()
    with av.open(str(path), "w") as container:
        container.add_attachment("cover.jpg", "image/jpeg", cover)
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for rgb in greys(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb)))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 2
    assert [f.hw for f in VideoSource(path)] == [(48, 64)] * 3


def test_a_thumbnail_before_the_film(tmp_path):
    write_streams(tmp_path / "a.mkv", {"mjpeg": (32, 32), "libx264": (48, 64)})
    assert [f.hw for f in VideoSource(tmp_path / "a.mkv")] == [(48, 64)] * 5


def test_a_stream_that_is_asked_for(tmp_path):
    path = tmp_path / "a.mkv"
    write_streams(path, {"libx264": (48, 64), "ffv1": (32, 40)})
    assert next(iter(open_source(f"{path}?stream=1"))).hw == (32, 40)
    assert next(iter(open_source(f"{path}?stream=0"))).hw == (48, 64)
    refused(f"{path}?stream=7", r"no video stream 7; there are 0: h264 64x48, 1: ffv1 40x32")
    other = tmp_path / "a.mkv?stream=1"
    write_video(other, greys(3, (80, 80)), form="matroska")
    assert next(iter(open_source(str(other)))).hw == (80, 80)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_a_title_in_latin_1(tmp_path, name):
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "MXller"
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for rgb in greys(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb)))
        container.mux(stream.encode())
    data = path.read_bytes()
    assert b"MXller" in data
    path.write_bytes(data.replace(b"MXller", b"M\xfcller"))
    assert len(list(VideoSource(path))) == 3


def test_a_codec_without_a_decoder(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, greys(3))
    data = path.read_bytes()
    at = data.index(b"stsd") + 16
    path.write_bytes(data[:at] + b"zzzz" + data[at + 4 :])
    refused(path, "has video of a kind that this FFmpeg cannot decode; convert it to H.264 first")
    path.write_bytes(data[: data.index(b"stsd") - 4])
    refused(path, "cannot decode|is not a video")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    refused(tmp_path / "a.mp4", "it is a named pipe")


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


def test_pictures_that_were_read_do_not_wait_for_the_garbage_collector(bikes):
    """PyAV's pictures whose side data was read are in circles: of 250 no more than one in eight."""
    gc.collect()
    gc.disable()
    try:
        for frame in VideoSource(bikes):
            assert frame.index < 250
        waiting = sum(type(each) is av.VideoFrame for each in gc.get_objects())
    finally:
        gc.enable()
    assert waiting <= 250 / 8 + 2
