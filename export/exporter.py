"""Export: from a checkpoint to a verified bundle, or to nothing."""

import datetime
import gc
import platform
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

import e2e_deploy
from e2e_deploy.bundle import (
    Bundle,
    CheckpointEntry,
    GraphEntry,
    Manifest,
    TensorSpec,
    VerificationEntry,
    new_bundle,
    open_bundle,
    write_manifest,
)
from e2e_deploy.checkpoint import Checkpoint
from e2e_deploy.errors import ParityError, UsageError
from e2e_deploy.export import onnx_export
from e2e_deploy.frames import FramePlan, plan_frame
from e2e_deploy.loading import load_model
from e2e_deploy.model import FrameModel, SingleStepModel
from e2e_deploy.pictures import reference_frames
from e2e_deploy.progress import Stages
from e2e_deploy.runtime.verify import Verdict, verify_bundle
from e2e_deploy.tasks import TASKS

PRECISIONS = ("fp32",)
DEFAULT_FRAME_SIZE = (480, 640)
LARGE_MODEL_PARAMETERS = 200_000_000
_PACKAGES = ("torch", "diffusers", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime", "numpy")


def package_versions() -> dict[str, str]:
    """Versions of what decides an export's result."""
    found = {"e2e-deploy": e2e_deploy.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _write_reference(
    model: SingleStepModel, plan: FramePlan, task: str, path: Path, *, count: int
) -> None:
    frames_NHW3 = reference_frames(plan.frame_hw, count)
    reference = FrameModel(model, plan, task).eval()
    with torch.inference_mode():
        results = [reference(torch.from_numpy(frame)[None])[0].numpy() for frame in frames_NHW3]
    path.parent.mkdir(exist_ok=True)
    np.savez_compressed(path, frames=frames_NHW3, results=np.stack(results))


def _graph_entry(plan: FramePlan, task: str, onnx_name: str, reference_name: str) -> GraphEntry:
    info = TASKS[task]
    height, width = plan.frame_hw
    return GraphEntry(
        frame_size=[height, width],
        processing_size=list(plan.padded_hw),
        onnx=onnx_name,
        reference=reference_name,
        inputs=[
            TensorSpec(
                name="frame", dtype="uint8", shape=[1, height, width, 3], meaning="RGB, 0 to 255"
            )
        ],
        outputs=[
            TensorSpec(
                name=task,
                dtype="float32",
                shape=[1, *info.result_shape(height, width)],
                meaning=f"{info.meaning}; units: {info.units}",
            )
        ],
    )


def _judge(verdicts: list[Verdict]) -> list[VerificationEntry]:
    for verdict in verdicts:
        if verdict.failures:
            height, width = verdict.frame_hw
            raise ParityError(
                f"{verdict.backend} {verdict.precision} at {height}x{width} is outside its limit: "
                f"{'; '.join(verdict.failures)}; no bundle was written"
            )
    return [
        VerificationEntry(
            frame_size=list(verdict.frame_hw),
            backend=verdict.backend,
            precision=verdict.precision,
            parity=asdict(verdict.parity),
            passed=True,
        )
        for verdict in verdicts
    ]


def export_bundle(
    checkpoint: Checkpoint,
    out: Path,
    *,
    checkpoint_id: str | None = None,
    frame_sizes: list[tuple[int, int]] | None = None,
    resolution: int | None = None,
    precision: str = "fp32",
    stages: Stages | None = None,
) -> Bundle:
    """Trace, write and verify; the bundle appears at ``out`` only when every graph is within its parity limit.

    Args:
        checkpoint: opened checkpoint.
        out: folder of the bundle; an existing bundle there is replaced at the very end.
        checkpoint_id: the name to write into the manifest; the checkpoint's own id if None.
        frame_sizes: (H, W) of the graphs to make; 480x640 if None.
        resolution: longest edge the network sees, 0 for the frame's own size; the checkpoint's default if None.
        precision: fp32.
        stages: says what is being done; silent if None.

    Raises:
        UsageError: a frame size or precision that cannot be used, or ``out`` is something else than a bundle.
        CheckpointError: the weights do not fit their configs.
        ParityError: ONNX Runtime's result is too far from PyTorch's; nothing is written.
        E2EDeployError: the disk is full or the folder cannot be written.
    """
    stages = stages or Stages(quiet=True)
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; supported: {', '.join(PRECISIONS)}")
    sizes = list(dict.fromkeys(frame_sizes or [DEFAULT_FRAME_SIZE]))
    longest_edge = checkpoint.resolution if resolution is None else resolution
    task = checkpoint.identity.task
    with new_bundle(out) as folder:
        with stages("load checkpoint"):
            model = load_model(checkpoint)
            digest = checkpoint.sha256()
        parameters = sum(p.numel() for p in model.parameters())
        plans = [plan_frame(size, longest_edge, model.stride) for size in sizes]
        # Every weight is needed for every reference frame; for a full-size model a frame takes a minute on a CPU.
        count = 1 if parameters > LARGE_MODEL_PARAMETERS else 2
        shared = len(plans) > 1 or parameters * 4 > onnx_export.MAX_INLINE_BYTES
        weights = onnx_export.WeightFile(folder / "model.data") if shared else None
        graphs = []
        for plan in plans:
            label = f"{plan.frame_hw[0]}x{plan.frame_hw[1]}"
            entry = _graph_entry(
                plan,
                task,
                "model.onnx" if len(plans) == 1 else f"model_{label}.onnx",
                f"reference/{label}.npz",
            )
            with stages(f"reference results {label} (torch, fp32)"):
                _write_reference(model, plan, task, folder / entry.reference, count=count)
            with stages(f"trace {label}"):
                frame = torch.from_numpy(reference_frames(plan.frame_hw, 1))
                graph = onnx_export.trace(
                    FrameModel(model, plan, task).eval(),
                    frame,
                    input_name="frame",
                    output_name=task,
                )
            with stages(f"write {entry.onnx}"):
                onnx_export.save(graph, folder / entry.onnx, weights)
            del graph
            graphs.append(entry)
        if weights is not None:
            weights.close()
        del model
        gc.collect()
        manifest = Manifest(
            task=task,
            family=checkpoint.identity.family.name,
            checkpoint=CheckpointEntry(
                id=checkpoint_id or checkpoint.id, sha256=digest, note=checkpoint.note
            ),
            resolution=longest_edge,
            precision=precision,
            fp32_ops=[],
            opset=onnx_export.OPSET,
            graphs=graphs,
            versions=package_versions(),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        write_manifest(folder, manifest)
        with stages("verify with ONNX Runtime (CPU)"):
            verdicts = verify_bundle(open_bundle(folder), "onnxruntime", "cpu")
        write_manifest(folder, replace(manifest, verification=_judge(verdicts)))
    return open_bundle(out)
