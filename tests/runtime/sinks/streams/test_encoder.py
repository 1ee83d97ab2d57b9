import base64
import io
import itertools

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from e2e_deploy.errors import UnavailableError
from e2e_deploy.runtime.sinks.streams import encoder
from e2e_deploy.runtime.sinks.streams.encoder import TICKS, LiveEncoder
from e2e_deploy.runtime.sinks.streams.packing import described, is_control, mpeg_ts, rtp
from e2e_deploy.runtime.sources.pattern import PatternSource, read_number

HW = (96, 160)
SPS, PPS, IDR = 7, 8, 5


def coded(count, keys=(), fps=25, step_s=None):
    encode = LiveEncoder("a stream", fps)
    frames = PatternSource(*HW, fps=0, total=count)
    return [
        encode(frame.rgb, frame.index * (step_s or 1 / fps), key=frame.index in keys)
        for frame in frames
    ]


def units(data):
    """The types of NAL units in a byte stream, by FFmpeg's own rule: after 00 00 01."""
    return [part[0] & 31 for part in data.split(b"\0\0\1")[1:]]


def test_every_frame_comes_out_at_once():
    frames = coded(60, keys={7})
    assert all(frame.data for frame in frames)
    assert [frame.tick for frame in frames] == [n * TICKS // 25 for n in range(60)]
    # the first, the one that was asked for, and one a second after each
    assert [n for n, frame in enumerate(frames) if frame.is_key] == [0, 7, 32, 57]


def test_a_decoder_can_begin_at_any_key_frame():
    frames = coded(20, keys={11})
    for start in (0, 11):
        assert units(frames[start].data)[:2] == [SPS, PPS]
        assert IDR in units(frames[start].data)
        data = b"".join(frame.data for frame in frames[start:])
        with av.open(io.BytesIO(data), format="h264") as container:
            numbers = [read_number(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
        assert numbers == list(range(start, 20))
    assert not {SPS, PPS, IDR} & set(units(frames[10].data))


def test_key_frames_come_by_time_where_frames_are_rare():
    assert [frame.is_key for frame in coded(5, fps=30, step_s=0.6)] == [1, 0, 1, 0, 1]


def test_times_grow_whatever_comes():
    encode = LiveEncoder("a stream", 30)
    rgb = np.zeros((*HW, 3), np.uint8)
    assert [encode(rgb, t, key=False).tick for t in (1.0, 1.0, 0.5)] == [90000, 90001, 90002]


def test_an_ffmpeg_without_h264(monkeypatch):
    monkeypatch.setattr(encoder, "CODEC", "x264-of-nowhere")
    with pytest.raises(UnavailableError, match=r"this PyAV \(.*\) was built without"):
        LiveEncoder("rtsp://h:1", 30)


def test_mpeg_ts_may_begin_at_any_key_frame():
    pack = mpeg_ts(25)
    chunks = [pack(each) for each in coded(30, keys={10, 11, 13, 28})]
    end = pack.close()
    for chunk in chunks:
        data = b"".join(chunk.parts)
        pids = [
            int.from_bytes(data[n + 1 : n + 3], "big") & 0x1FFF for n in range(0, len(data), 188)
        ]
        assert pids.index(0) < pids.index(0x100)  # the table of all before the first stream
    assert not b"".join(end.parts)
    sizes = {sum(map(len, chunk.parts)) % 188 for chunk in chunks}
    assert sizes == {0}
    data = b"".join(part for chunk in chunks[10:] for part in chunk.parts)
    with av.open(io.BytesIO(data), format="mpegts") as container:
        frames = list(container.decode(video=0))
    assert [read_number(f.to_ndarray(format="rgb24")) for f in frames] == list(range(10, 30))
    np.testing.assert_allclose([f.time for f in frames], np.arange(10, 30) / 25, atol=1e-4)
    assert {(f.colorspace, f.color_range) for f in frames} == {(Colorspace.ITU709, ColorRange.MPEG)}
    assert {(f.color_primaries, f.color_trc) for f in frames} == {
        (ColorPrimaries.BT709, ColorTrc.BT709)
    }
    assert {f.pict_type for f in frames} == {PictureType.I, PictureType.P}
    assert {f.format.name for f in frames} == {"yuv420p"}


def test_rtp_packets_fit_a_network_and_end_with_a_goodbye():
    pack = rtp(25)
    chunks = [pack(each) for each in coded(30)]
    packets = [part for chunk in chunks for part in chunk.parts if not is_control(part)]
    assert max(map(len, packets)) <= 1400
    numbers = [int.from_bytes(part[2:4], "big") for part in packets]
    assert {(b - a) % 65536 for a, b in itertools.pairwise(numbers)} == {1}
    for chunk in chunks:  # the marker ends a frame, and one frame has one time
        own = [part for part in chunk.parts if not is_control(part)]
        assert [part[1] >> 7 for part in own] == [0] * (len(own) - 1) + [1]
        assert len({part[4:8] for part in own}) == 1
    (last,) = pack.close().parts
    assert is_control(last)
    assert 203 in (last[1], last[1 + 4 * (int.from_bytes(last[2:4], "big") + 1)])  # RTCP's BYE


def test_the_sdp_names_the_parameter_sets():
    data = coded(1)[0].data
    (line,) = [x for x in described(data).split("\r\n") if x.startswith("a=fmtp")]
    texts = line.partition("sprop-parameter-sets=")[2].split(",")
    sets = [base64.b64decode(text) for text in texts]
    assert [each[0] & 31 for each in sets] == [SPS, PPS]
    assert all(b"\0\0\1" + each in data for each in sets)
    assert f"profile-level-id={sets[0][1:4].hex().upper()};" in line
    assert "sprop" not in described(None)
