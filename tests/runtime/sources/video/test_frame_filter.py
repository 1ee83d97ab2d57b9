import itertools
from fractions import Fraction

import av
import numpy as np
import pytest

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.sources.video.frame_filter import FrameFilter, Look
from e2e_deploy.runtime.sources.video.tone_mapping import HLG, PQ, nits_to_pq, to_sdr
from e2e_deploy.runtime.sources.video_source import VideoSource
from tests.videos import tag, write_video

RED, GREY = (220, 30, 30), (128, 128, 128)
BT709, BT601, BT2020 = 1, 5, 9
LIMITED, FULL = 1, 2


def first(path):
    return next(iter(VideoSource(path)))


def corner(hw=(64, 96)):
    """Grey, with a red corner at the top left."""
    upright = np.full((*hw, 3), GREY, np.uint8)
    upright[: hw[0] // 2, : hw[1] // 3] = RED
    return upright


def filtered(picture, aspect=None):
    notes = []
    way = FrameFilter("a.mp4", Fraction(1, 1000), notes.append)
    picture.pts, picture.time_base = 0, Fraction(1, 1000)
    frames = [frame.to_ndarray() for frame in [*way(picture, aspect), *way.flush()]]
    assert len(frames) == 1
    return frames[0], notes


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(
    ("turn", "mirror"), list(itertools.product([0, 90, 180, 270], [False, True]))
)
def test_frames_are_upright(tmp_path, turn, mirror, suffix):
    """FFmpeg writes the matrix; what is stored is what a player turns, then mirrors, into the upright picture."""
    upright = corner()
    stored = np.rot90(upright[:, ::-1] if mirror else upright, turn // 90)
    write_video(tmp_path / f"a{suffix}", [stored] * 2, turn=turn, mirror=mirror)
    rgb = first(tmp_path / f"a{suffix}").rgb
    assert rgb.shape == upright.shape
    assert np.abs(rgb[4:-4, 4:-4].astype(int) - upright[4:-4, 4:-4]).mean() < 6


def test_a_matrix_between_two_quarter_turns_is_the_nearer_one(tmp_path):
    write_video(tmp_path / "a.mp4", [np.rot90(corner())] * 2, turn=88)
    assert first(tmp_path / "a.mp4").rgb.shape == (64, 96, 3)


@pytest.mark.parametrize(
    ("aspect", "turn", "hw"),
    [
        (Fraction(32, 27), None, (64, 114)),
        (Fraction(8, 9), None, (64, 86)),
        (Fraction(4, 3), 90, (128, 64)),
        (Fraction(1, 1), None, (64, 96)),
    ],
)
def test_pixels_become_square(tmp_path, aspect, turn, hw):
    write_video(tmp_path / "a.mp4", [corner()] * 2, aspect=aspect, turn=turn)
    source = VideoSource(tmp_path / "a.mp4")
    frames = list(source)
    assert frames[0].hw == hw
    note = f"the video's pixels are not square ({aspect}): stretched in width".replace("/", ":")
    assert source.notes == ([note] if aspect != 1 else [])


def test_an_aspect_that_is_nonsense_is_not_followed():
    picture = av.VideoFrame.from_ndarray(corner())
    assert Look.of(picture, Fraction(1, 5000)).upright_hw == (64, 96)
    assert Look.of(picture, None).upright_hw == (64, 96)


def test_stretched_frames_keep_to_the_limit_of_size():
    picture = av.VideoFrame(8000, 8000, "gray")
    with pytest.raises(SourceError, match=r"a.mp4 is 64000x8000 \(512 Mpx\); the limit"):
        filtered(picture, Fraction(8, 1))


@pytest.mark.parametrize("matrix", [BT601, BT709, BT2020])
@pytest.mark.parametrize("values", [LIMITED, FULL])
def test_matrix_and_range_of_the_source(tmp_path, matrix, values):
    write_video(tmp_path / "a.mp4", [corner()] * 2, colours=(matrix, 1, 1, values))
    rgb = first(tmp_path / "a.mp4").rgb
    assert np.abs(rgb[8:20, 8:20].astype(int) - RED).max() <= 4
    assert np.abs(rgb[40:, 40:].astype(int) - GREY).max() <= 2


@pytest.mark.parametrize(
    ("hw", "matrix"),
    [
        ((480, 720), "ITU601"),
        ((576, 720), "ITU601"),
        ((720, 1280), "ITU709"),
        ((1280, 720), "ITU709"),
    ],
)
def test_untagged_video_is_bt709_from_hd_on(hw, matrix):
    rgb = np.full((*hw, 3), RED, np.uint8)
    picture = av.VideoFrame.from_ndarray(rgb).reformat(
        format="yuv420p", dst_colorspace=matrix, dst_color_range="MPEG"
    )
    tag(picture, (2, 2, 2, 0))
    got, notes = filtered(picture)
    assert np.abs(got.astype(int) - RED).max() <= 3
    assert notes == []


@pytest.mark.parametrize(("codec", "matrix"), [("libx264", "ITU709"), ("mjpeg", "ITU601")])
def test_full_range_alone_is_no_tag_of_a_matrix(tmp_path, codec, matrix):
    """Cameras send H.264 in HD that is full range and says no more; JPEG has its one matrix at any size."""
    picture = av.VideoFrame.from_ndarray(np.full((720, 1280, 3), RED, np.uint8)).reformat(
        format="yuvj420p", dst_colorspace=matrix, dst_color_range="JPEG"
    )
    tag(picture, (2, 2, 2, FULL))
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = 720, 1280, "yuvj420p"
        stream.options = {"crf": "4"} if codec == "libx264" else {"qmin": "2", "qmax": "2"}
        container.mux([*stream.encode(picture), *stream.encode()])
    assert np.abs(first(tmp_path / "a.mkv").rgb.astype(int) - RED).max() <= 4


@pytest.mark.parametrize(
    "pixels", ["gray", "rgb24", "bgra", "gbrp", "yuvj420p", "gray16le", "rgb48le"]
)
def test_what_is_full_range_without_a_tag(pixels):
    ramp = np.repeat(np.arange(0, 256, 2, dtype=np.uint8)[None, :, None], 64, axis=0)
    picture = av.VideoFrame.from_ndarray(np.repeat(ramp, 3, axis=2)).reformat(format=pixels)
    tag(picture, (2, 2, 2, 0))
    assert np.abs(filtered(picture)[0][..., 1].astype(int) - ramp[..., 0]).max() <= 1


def ten_bits(signal, transfer):
    """A grey picture of BT.2020 in limited 10 bits whose columns hold ``signal`` [W] in [0, 1]."""
    picture = av.VideoFrame(len(signal), 32, "yuv420p10le")
    luma = np.rint(np.tile(signal, (32, 1)) * 876 + 64).astype(np.uint16)
    chroma = np.full((16, len(signal) // 2), 512, np.uint16)
    for plane, values in zip(picture.planes, (luma, chroma, chroma), strict=True):
        rows = np.zeros((plane.height, plane.line_size // 2), np.uint16)
        rows[:, : values.shape[1]] = values
        plane.update(rows.tobytes())
    tag(picture, (BT2020, BT2020, transfer, LIMITED))
    return picture


@pytest.mark.parametrize(("kind", "transfer"), [(PQ, 16), (HLG, 18), ("BT.2020", 14)])
def test_wide_and_hdr_colours_become_sdr(kind, transfer):
    signal = np.linspace(0, 0.76 if kind == PQ else 1, 128)
    got, notes = filtered(ten_bits(signal, transfer))
    wanted = 255 * to_sdr(np.repeat(signal[:, None], 3, axis=1), kind, 1000.0)
    assert np.abs(got[16].astype(float) - wanted).max() < 2.5
    assert len(notes) == 1
    assert kind in notes[0]


def test_only_hdr_needs_a_temporary_file(monkeypatch):
    """As in a container whose file system is read-only."""
    monkeypatch.setattr("tempfile.tempdir", "/nonexistent/folder")
    assert filtered(av.VideoFrame.from_ndarray(corner()))[0].shape == (64, 96, 3)
    with pytest.raises(SourceError, match=r"a.mp4 is PQ, and .* a temporary file: .*; set TMPDIR"):
        filtered(ten_bits(np.linspace(0, 1, 128), 16))


def test_an_hdr_picture_looks_like_its_sdr_twin():
    """A grey ramp whose white is HDR's reference white: all but the highlights as in SDR."""
    sdr = np.linspace(0, 1, 128)
    linear = np.where(sdr <= 0.04045, sdr / 12.92, ((sdr + 0.055) / 1.055) ** 2.4)
    got = filtered(ten_bits(nits_to_pq(203 * linear), 16))[0][16, :, 0]
    assert np.abs(got - 255 * sdr)[:80].max() < 2.5
    assert 215 < got[-1] < 245


def combed(phase):
    """A bright bar on black that moves by 8 px between the two fields."""
    picture = np.zeros((64, 96), np.uint8)
    picture[0::2, phase : phase + 20] = 200
    picture[1::2, phase + 8 : phase + 28] = 200
    return picture


def test_interlaced_video_is_deinterlaced(tmp_path):
    pictures = [np.repeat(combed(16 * k)[..., None], 3, axis=2) for k in range(5)]
    write_video(tmp_path / "a.mp4", pictures, interlaced=True)
    source = VideoSource(tmp_path / "a.mp4")
    frames = list(source)
    assert source.notes == ["the video is interlaced: deinterlaced, one frame of two fields"]
    np.testing.assert_allclose([f.pts_s for f in frames], np.arange(5) / 10, atol=1e-6)
    middle = frames[2].rgb[16:48, :, 0].astype(int)
    assert np.abs(np.diff(middle, axis=0)).max() < 60  # no comb: 200 from line to line before
    left = int(np.argmax(middle[0] > 100))
    assert left in (32, 40)  # where the bar is in one of the two fields
    assert np.abs(middle[:, left : left + 20] - 200).max() < 10


def test_a_change_of_look_within_a_stream_loses_no_frame():
    notes = []
    way = FrameFilter("a.mp4", Fraction(1, 1000), notes.append)
    frames = []
    for index, hw in enumerate([(64, 96), (64, 96), (96, 64), (64, 96)]):
        picture = av.VideoFrame.from_ndarray(np.full((*hw, 3), 10 * index, np.uint8))
        picture.pts, picture.time_base = 100 * index, Fraction(1, 1000)
        frames += way(picture, None)
    frames += way.flush()
    assert [frame.time for frame in frames] == [0, 0.1, 0.2, 0.3]
    assert [frame.height for frame in frames] == [64, 64, 96, 64]
    assert [int(frame.to_ndarray()[0, 0, 0]) for frame in frames] == [0, 10, 20, 30]


def test_mastering_metadata_says_the_peak(tmp_path):
    """Written by x265: content of 4000 cd/m2 leaves less room for reference white than of 1000."""
    greys = {}
    for peak in (1000, 4000):
        primaries = "G(8500,39850)B(6550,2300)R(35400,14600)WP(15635,16450)"
        display = f"{primaries}L({peak}0000,50)"
        path = tmp_path / f"{peak}.mp4"
        parameters = f"log-level=none:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:master-display={display}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx265", rate=10)
            stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p10le"
            stream.options = {"x265-params": parameters, "preset": "ultrafast"}
            for _ in range(3):
                picture = ten_bits(np.full(64, nits_to_pq(np.array(203.0))), 16)
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
        greys[peak] = float(first(path).rgb.mean())
        wanted = 255 * to_sdr(np.full(3, nits_to_pq(np.array(203.0))), PQ, float(peak))
        assert greys[peak] == pytest.approx(wanted[0], abs=3)
    assert greys[4000] < greys[1000] - 5
