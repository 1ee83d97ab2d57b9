"""What the loop costs: the engine alone, our loop, a plain OpenCV loop and diffusers' pipeline, in turn in one run.

All read the same video file of the engine's size but the engine alone, which has its frames in memory. The plain loop
is what a tutorial shows: read, convert, infer, colour, one after the other.

    python -m benchmarks.speed.loop_overhead [--work DIR] [--size 240x320] [--frames 60] [--rounds 6] [--no-diffusers]
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt

import e2e_deploy as e2e
from benchmarks.accuracy.clips import Rgb, tiny_bundle
from benchmarks.gain import gain
from benchmarks.report import write_result
from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.colormap import colour_depth
from e2e_deploy.frames import parse_size
from e2e_deploy.model.checkpoint import bundled_checkpoint
from e2e_deploy.runtime.backends.layout import Result
from e2e_deploy.runtime.engine import Engine
from e2e_deploy.runtime.loop import run_source
from e2e_deploy.runtime.report import RunReport
from e2e_deploy.runtime.sinks.sink import CallbackSink, Painter
from e2e_deploy.runtime.sources.pattern import PatternSource
from e2e_deploy.runtime.sources.source import SourceFrame
from e2e_deploy.runtime.sources.video_source import VideoSource
from e2e_deploy.runtime.steps.step import Facts
from e2e_deploy.runtime.timing import summarise


def write_clip(path: Path, size: tuple[int, int], count: int) -> Path:
    """The test pattern as an H.264 file."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        for frame in PatternSource(*size, fps=0, total=count):
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame.rgb)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def bare(engine: Engine, frames: list[Rgb], kept: list[float]) -> None:
    """The engine alone, call after call."""
    for frame in frames:
        start = time.perf_counter()
        engine(frame)
        kept.append(time.perf_counter() - start)


def ours(engine: Engine, clip: Path) -> RunReport:
    """Our loop with a sink that colours."""
    painter = Painter(engine.manifest, "turbo", is_video=True)

    def colour(frame: SourceFrame, result: Result, facts: Facts) -> None:
        painter(result, facts)

    return run_source(engine.bundle, VideoSource(clip), [CallbackSink(colour)], engine=engine)


def plain(engine: Engine, clip: Path) -> None:
    """The loop of a tutorial."""
    capture = cv2.VideoCapture(str(clip))
    while True:
        ok, bgr = capture.read()
        if not ok:
            break
        frame: npt.NDArray[np.uint8] = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
        depth = engine(frame)
        colour_depth(depth, "turbo", float(depth.min()), float(depth.max()))
    capture.release()


def diffusers_loop(size: tuple[int, int]) -> Callable[[Path, int], float]:
    """Seconds a frame of diffusers' Marigold pipeline at one step on a file."""
    import diffusers
    import torch

    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    pipeline = diffusers.MarigoldDepthPipeline.from_pretrained(
        bundled_checkpoint("depth"), torch_dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    latents = torch.zeros(1, 4, size[0] // 8, size[1] // 8)

    def run(clip: Path, count: int) -> float:
        start = time.perf_counter()
        for frame in VideoSource(clip):
            if frame.index == count:
                break
            rgb_13HW = torch.from_numpy(frame.rgb).permute(2, 0, 1)[None].float() / 255
            pipeline(
                rgb_13HW,
                num_inference_steps=1,
                processing_resolution=0,
                latents=latents,
                output_type="np",
            )
        return (time.perf_counter() - start) / count

    return run


def rounds_of(
    bundle: Bundle, clip: Path, frames: list[Rgb], rounds: int, peer: Any, peer_frames: int
) -> dict[str, Any]:
    """Everything in turn; the first round warms up and is not counted."""
    seconds: dict[str, list[float]] = {"bare": [], "ours": [], "plain": [], "diffusers": []}
    engine_s: list[float] = []
    report = None
    with e2e.load(bundle) as engine:
        for turn in range(rounds + 1):
            kept: list[float] = []
            bare(engine, frames, kept)
            start = time.perf_counter()
            report = ours(engine, clip)
            our_s = (time.perf_counter() - start) / report.frames
            start = time.perf_counter()
            plain(engine, clip)
            plain_s = (time.perf_counter() - start) / len(frames)
            peer_s = peer(clip, peer_frames) if peer else float("nan")
            if turn:
                engine_s += kept
                for name, value in zip(
                    seconds, (np.mean(kept), our_s, plain_s, peer_s), strict=True
                ):
                    seconds[name].append(float(value))
        described = engine.describe()
    assert report is not None
    assert report.latency is not None
    per_frame_ms = {name: 1000 * float(np.median(values)) for name, values in seconds.items()}
    return {
        "engine": described,
        "bare_engine": vars(summarise(engine_s)),
        "engine_in_the_loop": vars(report.latency),
        "p99_over_p50_in_the_loop": report.latency.p99_ms / report.latency.p50_ms,
        "ms_per_frame_median_of_rounds": per_frame_ms,
        "ours_against": {
            name: gain(values, seconds["ours"])
            for name, values in seconds.items()
            if name != "ours" and not np.isnan(values).any()
        },
    }


def main() -> None:
    """Export, run all in turn, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "e2e-loop")
    parser.add_argument("--size", default="240x320")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--no-diffusers", action="store_true")
    arguments = parser.parse_args()
    size = parse_size(arguments.size)
    arguments.work.mkdir(parents=True, exist_ok=True)
    clip = write_clip(arguments.work / "pattern.mp4", size, arguments.frames)
    frames = [frame.rgb for frame in VideoSource(clip)]
    peer = None if arguments.no_diffusers else diffusers_loop(size)
    found = rounds_of(
        tiny_bundle(arguments.work, size),
        clip,
        frames,
        arguments.rounds,
        peer,
        len(frames) // 4 or 1,
    )
    write_result(
        "loop_overhead",
        {
            "checkpoint": "e2e-tiny-depth",
            "size": list(size),
            "frames": arguments.frames,
            "rounds": arguments.rounds,
            **found,
        },
    )


if __name__ == "__main__":
    main()
