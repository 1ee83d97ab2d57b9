"""Export: from a checkpoint to a verified bundle, or to nothing."""

import contextlib
import ctypes
import datetime
import gc
import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import e2e_deploy
from e2e_deploy.bundle import (
    PRECISIONS,
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
from e2e_deploy.export.engines import build_engines
from e2e_deploy.export.lint import require_clean
from e2e_deploy.export.precision import FP32_PARTS
from e2e_deploy.export.prepare import prepare
from e2e_deploy.frames import FramePlan, plan_frame
from e2e_deploy.limits import LIMITS, measure_parity
from e2e_deploy.loading import load_model
from e2e_deploy.model import FrameModel, SingleStepModel
from e2e_deploy.pictures import reference_frames
from e2e_deploy.progress import Stages
from e2e_deploy.runtime.verify import Verdict, verify_bundle, worst
from e2e_deploy.tasks import TASKS

# bf16 convolutions came with opset 22; 20 is understood by the oldest runtimes we support.
OPSETS = {"fp32": 20, "fp16": 20, "bf16": 22}
NO_CPU_KERNELS = ("bf16",)
"""Precisions ONNX Runtime cannot run on a CPU; their graph is verified as the torch module it was traced from."""

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


def _return_memory() -> None:
    """Give freed memory back to the system before ONNX Runtime takes its own copy of the weights."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def size_label(plan: FramePlan) -> str:
    """The frame size as it stands in file names: HEIGHTxWIDTH."""
    return f"{plan.frame_hw[0]}x{plan.frame_hw[1]}"


def _run(module: nn.Module, frames_NHW3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    with torch.inference_mode():
        return np.stack([module(torch.from_numpy(frame)[None])[0].numpy() for frame in frames_NHW3])


def _write_reference(
    model: SingleStepModel, plan: FramePlan, task: str, path: Path, *, count: int
) -> None:
    frames_NHW3 = reference_frames(plan.frame_hw, count)
    path.parent.mkdir(exist_ok=True)
    results = _run(FrameModel(model, plan, task).eval(), frames_NHW3)
    np.savez_compressed(path, frames=frames_NHW3, results=results)


def _verify_module(
    body: nn.Module, plan: FramePlan, task: str, precision: str, reference: Path
) -> Verdict:
    """Parity of the traced module itself, where ONNX Runtime has no kernels for its type."""
    with np.load(reference, allow_pickle=False) as stored:
        frames_NHW3, references = stored["frames"], stored["results"]
    results = _run(FrameModel(body, plan, task).eval(), frames_NHW3)
    parities = [measure_parity(task, *pair) for pair in zip(results, references, strict=True)]
    limit = LIMITS["torch", precision]
    return Verdict(plan.frame_hw, "torch", "CPU", precision, worst(parities), limit)


def _graph_entry(plan: FramePlan, task: str, *, single: bool) -> GraphEntry:
    info = TASKS[task]
    height, width = plan.frame_hw
    onnx_name = "model.onnx" if single else f"model_{size_label(plan)}.onnx"
    reference_name = f"reference/{size_label(plan)}.npz"
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
    specialised: bool = True,
    engine: str = "onnx",
    targets: Sequence[str] = (),
    on_note: Callable[[str], None] = lambda note: None,
    stages: Stages | None = None,
) -> Bundle:
    """Trace, write and verify; the bundle appears at ``out`` only when every graph is within its parity limit.

    Args:
        checkpoint: opened checkpoint.
        out: folder of the bundle; an existing bundle there is replaced at the very end.
        checkpoint_id: the name to write into the manifest; the checkpoint's own id if None.
        frame_sizes: (H, W) of the graphs to make; 480x640 if None.
        resolution: longest edge the network sees, 0 for the frame's own size; the checkpoint's default if None.
        precision: fp32, fp16 or bf16; norm statistics, softmax logits and the last convolution stay fp32.
        specialised: fold what is constant at one step: time, prompt, noise, scales.
        engine: onnx (the graph alone), tensorrt-rtx, tensorrt, or auto: what can be built here.
        targets: GPUs to build TensorRT-RTX engines for, for example sm89; one portable engine if empty.
        on_note: told what ``auto`` built, what not and why.
        stages: says what is being done; silent if None.

    Raises:
        UsageError: a frame size, precision, engine or target that cannot be used, or ``out`` is no
            bundle.
        CheckpointError: the weights do not fit their configs.
        ParityError: the graph's result is too far from PyTorch's; nothing is written.
        UnavailableError: a named engine's library or GPU is not here.
        E2EDeployError: the graph is not clean, an engine cannot be built, the disk is full or the folder cannot
            be written.
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
        graphs = [_graph_entry(plan, task, single=len(plans) == 1) for plan in plans]
        for plan, entry in zip(plans, graphs, strict=True):
            with stages(f"reference results {size_label(plan)} (torch, fp32)"):
                _write_reference(model, plan, task, folder / entry.reference, count=count)
        with stages("specialise" if specialised else "prepare"):
            macs_hw = plans[0].padded_hw
            body, passes = prepare(
                model, precision=precision, specialised=specialised, macs_hw=macs_hw
            )
            del model
        num_bytes = sum(t.numel() * t.element_size() for t in body.state_dict().values())
        with ExitStack() as stack:  # the weight file is closed whatever happens
            weights = None
            if len(plans) > 1 or num_bytes > onnx_export.MAX_INLINE_BYTES:
                weights = stack.enter_context(onnx_export.WeightFile(folder / "model.data"))
            for plan, entry in zip(plans, graphs, strict=True):
                with stages(f"trace {size_label(plan)}"):
                    graph = onnx_export.trace(
                        FrameModel(body, plan, task).eval(),
                        torch.from_numpy(reference_frames(plan.frame_hw, 1)),
                        input_name="frame",
                        output_name=task,
                        opset=OPSETS[precision],
                    )
                    if specialised:
                        require_clean(graph, "onnxruntime")
                with stages(f"write {entry.onnx}"):
                    onnx_export.save(graph, folder / entry.onnx, weights)
                del graph
        verdicts = []
        if precision in NO_CPU_KERNELS:
            for plan, entry in zip(plans, graphs, strict=True):
                with stages(f"verify {size_label(plan)} (torch, {precision})"):
                    reference = folder / entry.reference
                    verdicts.append(_verify_module(body, plan, task, precision, reference))
        del body
        _return_memory()
        manifest = Manifest(
            task=task,
            family=checkpoint.identity.family.name,
            checkpoint=CheckpointEntry(
                id=checkpoint_id or checkpoint.id, sha256=digest, note=checkpoint.note
            ),
            resolution=longest_edge,
            precision=precision,
            fp32_ops=[] if precision == "fp32" else list(FP32_PARTS),
            opset=OPSETS[precision],
            graphs=graphs,
            passes=passes,
            versions=package_versions(),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        write_manifest(folder, manifest)
        if precision not in NO_CPU_KERNELS:
            with stages("verify with ONNX Runtime (CPU)"):
                verdicts = verify_bundle(open_bundle(folder), "onnxruntime", "cpu")
        verified = replace(manifest, verification=_judge(verdicts))
        built = build_engines(folder, verified, engine=engine, targets=targets, stages=stages)
        for note in built.notes:
            on_note(note)
        write_manifest(folder, replace(verified, engines=built.entries))
    return open_bundle(out)
