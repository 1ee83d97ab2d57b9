"""Frames decoded on the GPU, with a double of PyNvVideoCodec's ThreadedDecoder; the real one was not executed."""

import gc
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import av
import numpy as np
import pytest

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.errors import SourceError, UnavailableError, UsageError
from e2e_deploy.nvidia.hardware import cuda_device_count
from e2e_deploy.runtime.backends.gpu.transfers import Count, budget
from e2e_deploy.runtime.engine import Engine
from e2e_deploy.runtime.loop import run_source
from e2e_deploy.runtime.sinks.sink import CallbackSink
from e2e_deploy.runtime.sources import gpu_video
from e2e_deploy.runtime.sources.gpu_video import GpuVideoSource
from e2e_deploy.runtime.sources.pattern import PatternSource
from e2e_deploy.runtime.sources.uris import open_source
from e2e_deploy.runtime.sources.video_source import VideoSource
from tests.fake_cuda import FakeDriver
from tests.plain_bundle import HW, plain_depth
from tests.runtime.fake_plans import load
from tests.videos import write_streams, write_video

COUNT = 8
SIZE = HW[0] * HW[1] * 3


def write_clip(path, hw, count):
    """The test pattern at 30 frames a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = *hw, "yuv420p"
        for frame in PatternSource(*hw, fps=0, total=count):
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame.rgb)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


class FakeDecoder:
    """Decodes on the host into two surfaces of the fake GPU, which it uses in turn."""

    made: ClassVar[list] = []  # what became of each; the source alone keeps the decoder

    def __init__(self, enc_file_path, buffer_size, **options):
        self.told = SimpleNamespace(options=options, ended=False)
        self.driver = FakeNvc.driver
        self.frames = iter(VideoSource(Path(enc_file_path)))
        self.surfaces = [0xD000, 0xE000]
        self.fails_at, self.count = FakeNvc.fails_at, 0
        FakeDecoder.made.append(self.told)

    def get_batch_frames(self, batch_size):
        assert batch_size == 1
        if self.count == self.fails_at:
            raise RuntimeError("CUDA_ERROR_NO_DEVICE\nNvDecoder")
        frame = next(self.frames, None)
        if frame is None or self.count == FakeNvc.ends_at:
            return []
        address = self.surfaces[self.count % 2]
        self.driver.memory[address] = frame.rgb.ravel().copy()
        self.count += 1
        return [
            SimpleNamespace(GetPtrToPlane=lambda plane: address, framesize=lambda: FakeNvc.size)
        ]

    def end(self):
        self.told.ended = True
        if FakeNvc.fails_to_end:
            raise RuntimeError("NvDecoder")

    def __del__(self):
        self.driver.calls.append(("delete_decoder",))


class FakeNvc:
    ThreadedDecoder = FakeDecoder
    OutputColorType = SimpleNamespace(RGB="RGB")
    driver = fails_at = ends_at = None
    fails_to_end = False
    size = SIZE


@pytest.fixture
def driver(monkeypatch):
    FakeNvc.fails_to_end = False
    FakeNvc.driver, FakeNvc.fails_at, FakeNvc.ends_at, FakeNvc.size = FakeDriver(), None, None, SIZE
    FakeDecoder.made.clear()
    monkeypatch.setattr(gpu_video, "require", lambda module, extra: FakeNvc)
    return FakeNvc.driver


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "clip.mp4", HW, COUNT)


def engine_of(root, driver):
    bundle = open_bundle(root)
    return Engine(bundle, bundle.manifest.graphs[0], load(root, driver), "named by you")


def test_frames_outlive_the_decoders_surfaces(driver, clip):
    source = GpuVideoSource(clip, driver=driver)
    assert (source.total, source.fps, source.is_live) == (COUNT, 30.0, False)
    frames = list(source)
    for frame, wanted in zip(frames, VideoSource(clip), strict=True):
        assert frame.hw == HW
        np.testing.assert_array_equal(frame.rgb, wanted.rgb)
        assert frame.rgb is frame.rgb
        assert (frame.index, frame.name, frame.source) == (wanted.index, "clip", source.name)
        assert frame.pts_s == pytest.approx(wanted.pts_s, abs=1e-6)
    assert source.transfers.counts == {
        "upload": Count(),
        "download": Count(COUNT, COUNT * SIZE),
        "on_gpu": Count(COUNT, COUNT * SIZE),
    }


def test_what_the_decoder_is_asked_for(driver, clip):
    list(GpuVideoSource(clip, driver=driver))
    (decoder,) = FakeDecoder.made
    stream = decoder.options.pop("cuda_stream")
    assert ("new_stream",) in driver.calls
    assert stream in {call[-1] for call in driver.calls if call[0] == "copy_on_gpu"}
    assert decoder.options == {
        "gpu_id": 0,
        "cuda_context": driver.context,
        "use_device_memory": True,
        "output_color_type": "RGB",
    }
    assert decoder.ended


def test_memory_is_used_again_and_released(driver, clip):
    source = GpuVideoSource(clip, driver=driver)
    for frame in source:
        del frame
    gc.collect()
    assert driver.names().count("allocate") <= 2
    assert driver.live == {}
    assert driver.names()[-1] == "close"


@pytest.mark.parametrize("fails_at", [None, 0, 2])
def test_the_decoder_goes_before_its_stream_and_context(driver, clip, fails_at):
    FakeNvc.fails_at = fails_at
    with pytest.raises(SourceError) if fails_at is not None else nullcontext():
        for frame in GpuVideoSource(clip, driver=driver):
            del frame
    order = ["delete_decoder", "destroy_stream", "close"]
    assert sorted(order, key=driver.names().index) == order


def test_a_decoder_that_does_not_end_well_is_released(driver, clip):
    FakeNvc.fails_to_end = True
    with pytest.raises(RuntimeError, match="NvDecoder"):
        for frame in GpuVideoSource(clip, driver=driver):
            del frame
    assert driver.live == {}


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("shown", [False, True])
def test_the_loop_uploads_nothing_and_keeps_its_budget(root, driver, clip, shown):
    results = []

    def take(frame, depth, facts):
        rgb = frame.rgb if shown else None
        results.append((frame.index, rgb, depth))

    with engine_of(root, driver) as engine:
        source = GpuVideoSource(clip, driver=driver)
        report = run_source(engine.bundle, source, [CallbackSink(take)], engine=engine)
    mode = budget(
        "gpu frame, shown" if shown else "gpu frame", frame_bytes=SIZE, result_bytes=4 * SIZE // 3
    )
    assert report.transfers == {
        name: Count(count.calls * COUNT, count.bytes * COUNT) for name, count in mode.items()
    }
    assert [index for index, _, _ in results] == list(range(COUNT))
    for (_, rgb, depth), wanted in zip(results, VideoSource(clip), strict=True):
        np.testing.assert_allclose(depth, plain_depth(wanted.rgb), rtol=1e-6)
        assert not shown or np.array_equal(rgb, wanted.rgb)


def test_a_backend_on_the_host_refuses_them(root, driver, clip):
    with pytest.raises(
        UsageError,
        match='need a backend that computes there, and this is onnxruntime on CPU.*; use `decode="cpu"`',
    ):
        run_source(open_bundle(root), GpuVideoSource(clip, driver=driver), [])


@pytest.mark.usefixtures("engine")
def test_another_size_than_the_engines_is_refused(root, driver, tmp_path):
    FakeNvc.size = 48 * 64 * 3
    other = write_clip(tmp_path / "other.mp4", (48, 64), 3)
    with engine_of(root, driver) as engine:
        source = GpuVideoSource(other, driver=driver)
        with pytest.raises(UsageError, match=r"export with `frame_sizes=\[\(48, 64\)\]`"):
            run_source(engine.bundle, source, [], engine=engine)


def test_what_the_decoder_refuses_is_one_sentence(driver, clip):
    FakeNvc.fails_at = 2
    with pytest.raises(
        SourceError, match='after frame 2: CUDA_ERROR_NO_DEVICE NvDecoder; use `decode="cpu"`'
    ):
        list(GpuVideoSource(clip, driver=driver))
    assert FakeDecoder.made[0].ended


def test_a_change_of_size_and_a_short_file_are_told(driver, clip):
    FakeNvc.ends_at = 3
    with pytest.raises(SourceError, match="decoder gave 3 of 8 frames; decode it on the CPU"):
        list(GpuVideoSource(clip, driver=driver))
    FakeNvc.size = 100
    with pytest.raises(SourceError, match="changes its size at frame 0"):
        list(GpuVideoSource(clip, driver=driver))


def test_every_frame_has_the_files_own_time(driver, tmp_path):
    """Uneven times, coded with frames that are decoded before others that are shown earlier."""
    ticks = [0, 100, 200, 700, 750, 2750, 2800]
    write_video(tmp_path / "vfr.mp4", [np.zeros((*HW, 3), np.uint8)] * 7, ticks=ticks)
    got = list(GpuVideoSource(tmp_path / "vfr.mp4", driver=driver))
    wanted = list(VideoSource(tmp_path / "vfr.mp4"))
    times = [(frame.pts_s, frame.shown_s, frame.duration_s) for frame in got]
    assert times == [(frame.pts_s, frame.shown_s, frame.duration_s) for frame in wanted]
    assert [frame.pts_s for frame in got] == pytest.approx([tick / 1000 for tick in ticks])


def test_a_file_that_ends_early_is_told(driver, tmp_path, rng):
    path = tmp_path / "a.mkv"
    write_video(path, rng.integers(0, 256, (20, *HW, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    FakeNvc.ends_at = 8
    with pytest.raises(SourceError, match=r"is cut off: [\d,]+ of [\d,]+ bytes are there"):
        list(GpuVideoSource(path, driver=driver))


@pytest.mark.parametrize(
    ("how", "needs"),
    [
        ({"turn": 90}, "turning"),
        ({"aspect": Fraction(4, 3)}, "stretching to square pixels"),
        ({"colours": (9, 9, 16, 1)}, "other colours"),
        ({"colours": (1, 1, 1, 2)}, "full-range YUV"),
        ({"interlaced": True}, "deinterlacing"),
    ],
)
def test_what_the_gpu_does_not_do_is_refused(driver, tmp_path, how, needs):
    write_video(tmp_path / "a.mp4", [np.zeros((*HW, 3), np.uint8)] * 3, **how)
    with pytest.raises(SourceError, match=f"needs {needs}, which is done on the CPU alone"):
        GpuVideoSource(tmp_path / "a.mp4", driver=driver)


def test_the_gpu_reads_the_best_stream_alone(driver, tmp_path):
    path = tmp_path / "two.mkv"
    write_streams(path, {"libx264": HW, "ffv1": (16, 16)})
    assert len(list(GpuVideoSource(path, stream=0, driver=driver))) == 5
    with pytest.raises(SourceError, match="decode stream 1 on the CPU"):
        open_source(f"{path}?stream=1", decode="gpu")


def test_a_driver_that_is_too_old_is_said(clip, monkeypatch):
    def load(module, extra):
        raise RuntimeError("Driver version is too old")

    monkeypatch.setattr(gpu_video, "require", load)
    with pytest.raises(
        UnavailableError, match="does not load .Driver version is too old.; install"
    ):
        GpuVideoSource(clip)


def test_it_is_for_video_files_and_never_chosen(driver, clip, tmp_path):
    assert type(open_source(str(clip))) is VideoSource
    for spec in ("rtsp://me:pw@host/a", "test:", str(tmp_path)):
        with pytest.raises(UsageError, match='`decode="gpu"` is for video files') as caught:
            open_source(spec, decode="gpu")
        assert "pw" not in str(caught.value)
    with pytest.raises(UsageError, match="the decoders are cpu, gpu"):
        open_source(str(clip), decode="nvdec")


@pytest.mark.skipif(cuda_device_count() > 0, reason="there is a GPU")
def test_without_the_package_or_the_gpu_it_is_one_sentence(clip):
    with pytest.raises(UnavailableError) as caught:
        open_source(str(clip), decode="gpu")
    assert caught.value.exit_code == 4
    assert "e2e-deploy[video-gpu]" in str(caught.value) or "no NVIDIA GPU" in str(caught.value)
    assert "\n" not in str(caught.value)
