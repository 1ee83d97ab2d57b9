import gc
import os
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition

from e2e_deploy.runtime.sources.uris import open_source
from e2e_deploy.runtime.sources.video_source import VideoSource
from tests.runtime.sources.test_source import refused
from tests.videos import greys, write_streams, write_video


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
