"""No kernel here has a v4l2loopback device: its ioctls are doubled, the numbers come from the kernel's own header."""

import errno
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest

from e2e_deploy.errors import E2EDeployError, UnavailableError, UsageError
from e2e_deploy.runtime.run import run
from e2e_deploy.runtime.sinks.streams import virtual_camera as v4l2
from e2e_deploy.runtime.sources.pattern import PatternSource, read_number
from e2e_deploy.runtime.sources.source import SourceFrame
from tests.plain_bundle import plain_depth, write_plain_bundle
from tests.sink_inputs import painter, result_for, source_frame

HW = (96, 160)
linux = pytest.mark.skipif(sys.platform != "linux", reason="V4L2 is Linux's")


@dataclass
class Device:
    """What answers the ioctls of a file that stands in for a device."""

    capabilities: int = v4l2.HAS_DEVICE_CAPS | 0x3
    device_caps: int = v4l2.CAN_OUTPUT
    settles: dict = field(default_factory=dict)  # of a format, instead of what is wanted
    refuses: dict = field(default_factory=dict)  # request: errno
    asked: list = field(default_factory=list)

    def __call__(self, device, request, argument):
        self.asked.append(request)
        if request in self.refuses:
            raise OSError(self.refuses[request], os.strerror(self.refuses[request]))
        if request == v4l2.QUERYCAP:
            argument.card = b"Dummy video device (0x0000)"
            argument.capabilities, argument.device_caps = self.capabilities, self.device_caps
        elif request == v4l2.S_FMT:
            assert argument.type == v4l2.OUTPUT
            for name, value in self.settles.items():
                setattr(argument.fmt.pix, name, value)
            self.pix = argument.fmt.pix
        elif request == v4l2.S_PARM:
            self.fps = argument.denominator / argument.numerator
        return 0


@pytest.fixture
def opened(tmp_path, monkeypatch, manifests):
    """opened(device, ...): a sink on a file, and its path."""

    def open_on(device, *, side_by_side=False, fps=30.0, is_video=True):
        path = tmp_path / "video7"
        path.touch()
        monkeypatch.setattr(v4l2, "_ioctl", device)
        colours = painter(manifests["trained"], is_video)
        colours.fixed = (0.0, 1.0)
        sink = v4l2.VirtualCameraSink(
            str(path), colours, fps=fps, live=True, side_by_side=side_by_side
        )
        return sink, path

    return open_on


def shown(path, height, width, line_bytes=None):
    """The frames that were written, as RGB: OpenCV's reading of YUYV."""
    data = np.fromfile(path, np.uint8).reshape(-1, height, line_bytes or 2 * width)
    yuyv = data[:, :, : 2 * width].reshape(-1, height, width, 2)
    return [cv2.cvtColor(each, cv2.COLOR_YUV2RGB_YUY2) for each in yuyv]


@linux
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
def test_numbers_and_layouts_are_those_of_the_header(tmp_path):
    if not Path("/usr/include/linux/videodev2.h").exists():
        pytest.skip("the kernel's header linux/videodev2.h is not installed")
    told = {
        "VIDIOC_QUERYCAP": v4l2.QUERYCAP,
        "VIDIOC_S_FMT": v4l2.S_FMT,
        "VIDIOC_S_PARM": v4l2.S_PARM,
        "V4L2_BUF_TYPE_VIDEO_OUTPUT": v4l2.OUTPUT,
        "V4L2_CAP_VIDEO_OUTPUT": v4l2.CAN_OUTPUT,
        "V4L2_CAP_DEVICE_CAPS": v4l2.HAS_DEVICE_CAPS,
        "V4L2_PIX_FMT_YUYV": v4l2.YUYV,
        "V4L2_PIX_FMT_PRIV_MAGIC": v4l2.PRIV_MAGIC,
        "V4L2_FIELD_NONE": v4l2.NO_FIELDS,
        "V4L2_COLORSPACE_SRGB": v4l2.SRGB,
        "V4L2_YCBCR_ENC_601": v4l2.BT601,
        "V4L2_QUANTIZATION_LIM_RANGE": v4l2.LIMITED,
    }
    pix = v4l2.Format.fmt.offset
    for name, _ in v4l2.PixFormat._fields_:
        place = pix + getattr(v4l2.PixFormat, name).offset
        told[f"offsetof(struct v4l2_format, fmt.pix.{name})"] = place
    for name in ("card", "capabilities", "device_caps"):
        told[f"offsetof(struct v4l2_capability, {name})"] = getattr(v4l2.Capability, name).offset
    for name in ("numerator", "denominator"):
        place = getattr(v4l2.StreamParm, name).offset
        told[f"offsetof(struct v4l2_streamparm, parm.output.timeperframe.{name})"] = place
    checks = "".join(f'  printf("%lu\\n", (unsigned long)({each}));\n' for each in told)
    source = tmp_path / "a.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <linux/videodev2.h>\n"
        f"int main(void) {{\n{checks}  return 0;\n}}\n"
    )
    subprocess.run(["cc", source, "-o", tmp_path / "a"], check=True)
    printed = subprocess.run([tmp_path / "a"], check=True, capture_output=True, text=True).stdout
    assert dict(zip(told, map(int, printed.split()), strict=True)) == told


@linux
def test_frames_go_out_in_colours_that_others_read(opened):
    device = Device()
    sink, path = opened(device, side_by_side=True, fps=24)
    wanted = []
    for frame in PatternSource(*HW, fps=0, total=3):
        depth = plain_depth(frame.rgb).astype(np.float32)
        sink.write(frame, depth, {})
        wanted.append(np.concatenate([frame.rgb, sink._canvas._painter(depth, {})], axis=1))
    assert sink.close() == []
    frames = shown(path, HW[0], 2 * HW[1])
    assert [read_number(each[:, : HW[1]]) for each in frames] == [0, 1, 2]
    for one, other in zip(frames, wanted, strict=True):
        assert np.abs(one.astype(float) - other).mean() < 4
    assert (device.pix.width, device.pix.height) == (2 * HW[1], HW[0])
    assert device.pix.pixelformat.to_bytes(4, "little") == b"YUYV"
    assert device.fps == 24
    assert sink.dropped == 0


@linux
@pytest.mark.parametrize("colour", [(200, 30, 30), (30, 200, 30), (30, 30, 200), (235, 235, 235)])
def test_colours_are_coded_as_webcams_do(opened, colour):
    sink, path = opened(Device(), side_by_side=True)
    frame = SourceFrame(np.full((*HW, 3), colour, np.uint8), 0, None, "a")
    sink.write(frame, np.zeros(HW, np.float32), {})
    sink.close()
    (rgb,) = shown(path, HW[0], 2 * HW[1])
    assert np.abs(rgb[:, : HW[1] - 4].astype(int) - colour).max() <= 4


@linux
@pytest.mark.parametrize(
    ("settles", "size", "line_bytes"),
    [
        ({"bytesperline": 512, "sizeimage": 96 * 512}, (96, 160), 512),
        ({"width": 128, "height": 64, "bytesperline": 256, "sizeimage": 64 * 256}, (64, 128), 256),
    ],
)
def test_the_device_decides_on_lines_and_size(opened, rng, settles, size, line_bytes):
    sink, path = opened(Device(settles=settles))
    for hw in (HW, HW, (60, 80)):  # and a video that changes its size
        sink.write(source_frame(rng, hw), np.full(hw, 0.5, np.float32), {})
    sink.close()
    frames = shown(path, *size, line_bytes)
    assert len(frames) == 3
    middles = [each[size[0] // 2, size[1] // 2 - 20] for each in frames]
    assert np.ptp(np.stack(middles).astype(int), axis=0).max() <= 2


@linux
def test_a_device_without_capabilities_of_its_own(opened):
    opened(Device(capabilities=v4l2.CAN_OUTPUT, device_caps=0))[0].close()


@linux
@pytest.mark.parametrize(
    "device", [Device(device_caps=0x1), Device(capabilities=0x1, device_caps=v4l2.CAN_OUTPUT)]
)
def test_a_camera_takes_no_pictures(opened, device):
    with pytest.raises(
        UsageError, match=r"video7 \(Dummy video device .* gives pictures and takes"
    ):
        opened(device)
    assert device.asked == [v4l2.QUERYCAP]


@linux
@pytest.mark.parametrize(
    ("device", "said"),
    [
        (Device(refuses={v4l2.S_FMT: errno.EBUSY}), "takes no YUYV: another program writes to it"),
        (Device(refuses={v4l2.S_FMT: errno.EINVAL}), "takes no YUYV: Invalid argument"),
        (Device(settles={"pixelformat": 0x30323449}), "takes no YUYV but I420 of 160x96; end what"),
    ],
)
def test_a_device_that_holds_another_format(opened, rng, device, said):
    sink, path = opened(device)
    with pytest.raises(E2EDeployError, match=said):
        sink.write(source_frame(rng, HW), result_for("depth", rng, HW), {})
    sink.close()
    assert path.stat().st_size == 0


@linux
def test_frames_that_the_device_does_not_take_in_time_are_counted(opened, rng, monkeypatch):
    sink, _ = opened(Device(refuses={v4l2.S_PARM: errno.ENOTTY}))

    def full(device, data):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(v4l2.os, "write", full)
    for _ in range(3):
        sink.write(source_frame(rng, HW), result_for("depth", rng, HW), {})
    monkeypatch.undo()
    assert sink.dropped == 3
    sink.close()


@linux
def test_a_device_that_is_taken_away_is_a_sentence(opened, rng, monkeypatch):
    sink, _ = opened(Device())

    def gone(device, data):
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(v4l2.os, "write", gone)
    with pytest.raises(E2EDeployError, match="video7 takes no frame: No such device"):
        sink.write(source_frame(rng, HW), result_for("depth", rng, HW), {})
    monkeypatch.undo()
    sink.close()


@linux
def test_what_is_no_device(tmp_path, manifests):
    """The kernel itself says so."""
    colours = painter(manifests["depth"], True)
    how = {"fps": None, "live": True, "side_by_side": False}
    (tmp_path / "video7").touch()
    with pytest.raises(E2EDeployError, match="is no video device: Inappropriate ioctl"):
        v4l2.VirtualCameraSink(str(tmp_path / "video7"), colours, **how)
    with pytest.raises(
        UnavailableError, match="no /dev/video9876; .* modprobe v4l2loopback video_nr=9876"
    ):
        v4l2.VirtualCameraSink("/dev/video9876", colours, **how)
    with pytest.raises(E2EDeployError, match="cannot be opened: Is a directory"):
        v4l2.VirtualCameraSink(str(tmp_path), colours, **how)


def test_elsewhere_there_are_none(manifests, monkeypatch):
    monkeypatch.setattr(v4l2.sys, "platform", "win32")
    with pytest.raises(UnavailableError, match="only Linux has such devices"):
        v4l2.VirtualCameraSink(
            "/dev/video0", painter(manifests["depth"]), fps=None, live=True, side_by_side=False
        )


@linux
def test_a_run_knows_such_a_device_by_its_name(tmp_path):
    bundle = write_plain_bundle(tmp_path / "bundle", note="")
    with pytest.raises(UnavailableError, match="there is no /dev/video9876"):
        run(PatternSource(24, 32, fps=0, total=1), bundle, out="/dev/video9876", side_by_side=True)
