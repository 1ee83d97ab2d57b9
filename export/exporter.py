"""Export: from a checkpoint to a verified bundle, or to nothing."""

import contextlib
import ctypes
import datetime
import gc
import platform
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from torch import nn

import e2e_deploy
from e2e_deploy.bundle.bundle import Bundle, open_bundle
from e2e_deploy.bundle.manifest import (
    CheckpointEntry,
    Manifest,
    VerificationEntry,
)
from e2e_deploy.bundle.new_bundle import new_bundle, write_manifest
from e2e_deploy.errors import ParityError, UsageError
from e2e_deploy.export.engines.build import Plans, build_plans, opset_for, plan_jobs
from e2e_deploy.export.engines.tensorrt import DEFAULT_LEVEL
from e2e_deploy.export.graph.precision import FP32_PARTS
from e2e_deploy.export.graph.prepare import prepare
from e2e_deploy.export.onnx import quantise, trace
from e2e_deploy.export.onnx.lint import require_clean, require_whole
from e2e_deploy.export.open_sides import check_sizes
from e2e_deploy.export.subject import Subject, plan_subjects
from e2e_deploy.model.checkpoint import Checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.names import GRAPH_KINDS, PRECISIONS, EngineChoice, GraphKind, Precision
from e2e_deploy.progress import Stages
from e2e_deploy.runtime.checks.verify import Verdict, verify_bundle

KEPT_FP32 = {"fp16": FP32_PARTS, "bf16": FP32_PARTS, "int8": quantise.FP32_PARTS}
NO_CPU_KERNELS = ("bf16",)
"""Precisions ONNX Runtime cannot run on a CPU; their graph is verified as the torch module it was traced from."""

FP32 = "fp32"
"""Folder of the graphs that int8 is made from and measured beside; gone when the bundle is there."""

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
    """Give freed memory back to the system before others take their own copies of the weights."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def _check(
    precision: str, graph: str, engine: str, targets: Sequence[str], *, accept_accuracy: bool
) -> None:
    """Refuse what cannot be exported, before any work.

    Raises:
        UsageError: an unknown precision or kind of graph, a plan of what no plan is made of, or an accuracy that
            has no exception.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; supported: {', '.join(PRECISIONS)}")
    if graph not in GRAPH_KINDS:
        raise UsageError(f"unknown graph {graph!r}; supported: {', '.join(GRAPH_KINDS)}")
    if engine not in ("auto", "onnx") or targets:
        for given, name in ((precision, "int8"), (graph, "core")):
            if given == name:
                raise UsageError(
                    f"no plan is built from {name} graphs: int8 is for ONNX Runtime on a CPU, and plans take "
                    "frames; leave out --engine and --target"
                )
    if accept_accuracy and precision != "int8":
        raise UsageError(f"--accept-accuracy is for int8; {precision} has no exception")


def _judge(verdicts: list[Verdict], *, accepted: bool) -> list[VerificationEntry]:
    """The verdicts for the manifest; one outside its limit ends the export unless that is ``accepted``.

    A result that holds NaN is no accuracy, and never accepted.
    """
    for verdict in verdicts:
        excusable = verdict.precision == "int8" and verdict.parity.finite
        if verdict.failures and not (accepted and excusable):
            height, width = verdict.frame_hw
            way_out = "; --accept-accuracy writes it all the same" if excusable else ""
            raise ParityError(
                f"{verdict.backend} {verdict.precision} at {height}x{width} is outside its limit: "
                f"{'; '.join(verdict.failures)}; no bundle was written{way_out}"
            )
    return [
        VerificationEntry(
            frame_size=list(verdict.frame_hw),
            backend=verdict.backend,
            precision=verdict.precision,
            parity=asdict(verdict.parity),
            passed=not verdict.failures,
        )
        for verdict in verdicts
    ]


def _trace(
    body: nn.Module,
    subjects: list[Subject],
    folder: Path,
    *,
    opset: int,
    lint: bool,
    stages: Stages,
) -> None:
    """Write the graphs of ``subjects`` into ``folder``."""
    num_bytes = sum(t.numel() * t.element_size() for t in body.state_dict().values())
    with ExitStack() as stack:  # the weight file is closed whatever happens
        weights = None
        if len(subjects) > 1 or num_bytes > trace.MAX_INLINE_BYTES:
            weights = stack.enter_context(trace.WeightFile(folder / "model.data"))
        for subject in subjects:
            entry = subject.entry
            with stages(f"trace {subject.label}"):
                graph = trace.trace(
                    subject.module(body),
                    subject.example(),
                    input_name=entry.inputs[0].name,
                    output_name=entry.outputs[0].name,
                    opset=opset,
                    multiple_of=entry.multiple_of,
                )
                if lint:
                    require_clean(graph, "onnxruntime")
            with stages(f"write {entry.onnx}"):
                trace.save(graph, folder / entry.onnx, weights)
            del graph
    for subject in subjects:
        require_whole(folder / subject.entry.onnx)


def _quantise(source: Path, subjects: list[Subject], folder: Path, stages: Stages) -> None:
    """Write the graphs of ``subjects`` in ``source`` into ``folder`` in int8."""
    with ExitStack() as stack:
        weights = None
        if len(subjects) > 1:
            weights = stack.enter_context(trace.WeightFile(folder / "model.data"))
        for subject in subjects:
            with stages(f"quantise {subject.label} (int8)"):
                inputs = subject.inputs(quantise.calibration_frames(subject.plan.frame_hw))
                name = subject.entry.onnx
                quantise.quantise(source / name, folder / name, inputs, weights)


def _in_words(entry: VerificationEntry) -> str:
    """Accuracy and speed of an int8 graph in one sentence."""
    fp32_ms, int8_ms = entry.speed["fp32_ms"], entry.speed["int8_ms"]
    angle, share = entry.parity["mean_angle_deg"], entry.parity["share_within_2pct"]
    if angle is None:
        accuracy = f"AbsRel {entry.parity['abs_rel']:.2%}, {share:.2%} of pixels within 2 %"
    else:
        accuracy = f"mean angle {angle:.2f} degrees"
    outside = "" if entry.passed else " (OUTSIDE ITS LIMIT, accepted by you)"
    return (
        f"int8 at {entry.frame_size[0]}x{entry.frame_size[1]}: {accuracy}{outside}; {int8_ms:.1f} ms where fp32 takes "
        f"{fp32_ms:.1f} ({fp32_ms / int8_ms:.2f} times as fast on the CPU of the export)"
    )


def _with_speed(bundle: Bundle, manifest: Manifest) -> Manifest:
    """The manifest of an int8 bundle with its speed beside fp32; a broken limit goes where every output says it."""
    entries = []
    for graph, entry in zip(manifest.graphs, manifest.verification, strict=True):
        speed = quantise.compare_speed(bundle, graph, f"{FP32}/{graph.onnx}")
        entries.append(replace(entry, speed=speed))
    checkpoint = manifest.checkpoint
    if not all(entry.passed for entry in entries):
        said = (checkpoint.note, "int8 outside its accuracy limit")
        checkpoint = replace(checkpoint, note=", ".join(note for note in said if note))
    notes = [_in_words(entry) for entry in entries]
    return replace(manifest, checkpoint=checkpoint, verification=entries, notes=notes)


def export_bundle(
    checkpoint: Checkpoint,
    out: Path,
    *,
    checkpoint_id: str | None = None,
    frame_sizes: list[tuple[int, int]] | None = None,
    resolution: int | None = None,
    pad: int = 0,
    precision: Precision = "fp32",
    specialised: bool = True,
    graph: GraphKind = "frame",
    dynamic: bool = False,
    accept_accuracy: bool = False,
    engine: EngineChoice = "onnx",
    targets: Sequence[str] = (),
    level: int = DEFAULT_LEVEL,
    workspace_bytes: int | None = None,
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
        pad: pad the sides the network sees to multiples of this, a multiple of the VAE's stride (8); 0 has them as the
            checkpoint's own pipeline does. At 64 every level of SD2's UNet is doubled exactly.
        precision: fp32, fp16, bf16 or int8. In 16 bits norm statistics, softmax logits and the last convolution stay
            fp32. int8 is for ONNX Runtime on a CPU; its accuracy and its speed beside fp32 go into the manifest.
        specialised: fold what is constant at one step: time, prompt, noise, scales.
        graph: frame (frame in, result at its size out), or core: rgb [1, 3, H, W] in [-1, 1] at processing size in,
            result [1, 1 or 3, H, W] out, for those who have frame steps of their own. Plans take frames only.
        dynamic: of a core graph: H and W are open, multiples of 64 px; verified at two sizes.
        accept_accuracy: write an int8 bundle whose accuracy is outside its limit; every output says so.
        engine: onnx (the graph alone), tensorrt-rtx, tensorrt, or auto: what can be built here.
        targets: GPUs to build TensorRT-RTX plans for, for example sm89; one portable plan if empty.
        level: the plan builder's optimisation level, 0 (fast to build) to 5.
        workspace_bytes: most memory a kernel of the plan may use besides its tensors; the library's default if None.
        on_note: told what ``auto`` built, what not and why.
        stages: says what is being done; silent if None.

    Raises:
        UsageError: a frame size, precision, plan, target or combination that cannot be used, or ``out`` is no
            bundle.
        CheckpointError: the weights do not fit their configs.
        ParityError: the graph's result is too far from PyTorch's; nothing is written.
        UnavailableError: a named plan's library or GPU is not here.
        E2EDeployError: the graph is not clean, a plan cannot be built, the disk is full or the folder cannot
            be written.
    """
    stages = stages or Stages(quiet=True)
    _check(precision, graph, engine, targets, accept_accuracy=accept_accuracy)
    if engine == "onnx" and (level != DEFAULT_LEVEL or workspace_bytes is not None):
        raise UsageError(
            "an optimisation level and a workspace are a plan's, and --engine onnx has none"
        )
    sizes = list(dict.fromkeys(frame_sizes or [DEFAULT_FRAME_SIZE]))
    check_sizes(sizes, kind=graph, dynamic=dynamic)
    longest_edge = checkpoint.resolution if resolution is None else resolution
    task, is_int8 = checkpoint.identity.task, precision == "int8"
    jobs = plan_jobs(engine, targets, precision)[0] if graph == "frame" else []
    opset = opset_for(precision, jobs)
    with new_bundle(out, on_note) as folder:
        with stages("load checkpoint"):
            model = load_model(checkpoint)
            digest = checkpoint.sha256()
        parameters = sum(p.numel() for p in model.parameters())
        subjects = plan_subjects(
            sizes,
            resolution=longest_edge,
            pad=pad,
            model=model,
            task=task,
            kind=graph,
            dynamic=dynamic,
        )
        # Every weight is needed for every reference frame; for a full-size model a frame takes a minute on a CPU.
        count = 1 if parameters > LARGE_MODEL_PARAMETERS else 2
        for subject in subjects:
            with stages(f"reference results {subject.label} (torch, fp32)"):
                subject.write_reference(model, folder, count=count)
        with stages("specialise" if specialised else "prepare"):
            body, passes = prepare(
                model,
                precision="fp32" if is_int8 else precision,
                specialised=specialised,
                sizes_hw=[subject.plan.padded_hw for subject in subjects],
            )
            del model
        traced = subjects[:1] if dynamic else subjects
        source = folder / FP32 if is_int8 else folder
        source.mkdir(exist_ok=True)
        _trace(body, traced, source, opset=opset, lint=specialised, stages=stages)
        verdicts = []
        if precision in NO_CPU_KERNELS:
            for subject in subjects:
                with stages(f"verify {subject.label} (torch, {precision})"):
                    verdicts.append(subject.verify_module(body, precision, folder))
        del body
        _return_memory()
        if is_int8:
            _quantise(source, traced, folder, stages)
        manifest = Manifest(
            task=task,
            family=checkpoint.identity.family.name,
            checkpoint=CheckpointEntry(
                id=checkpoint_id or checkpoint.id, sha256=digest, note=checkpoint.note
            ),
            resolution=longest_edge,
            pad=pad,
            precision=precision,
            fp32_ops=list(KEPT_FP32.get(precision, ())),
            opset=opset,
            graphs=[subject.entry for subject in subjects],
            passes=passes,
            versions=package_versions(),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        write_manifest(folder, manifest)
        if precision not in NO_CPU_KERNELS:
            with stages("verify with ONNX Runtime (CPU)"):
                verdicts = verify_bundle(open_bundle(folder), "onnxruntime", "cpu")
        verified = replace(manifest, verification=_judge(verdicts, accepted=accept_accuracy))
        if is_int8:
            with stages("compare speed with fp32"):
                verified = _with_speed(open_bundle(folder), verified)
            shutil.rmtree(source)
            for note in verified.notes:
                on_note(note)
        if graph == "core":
            said = ["no plan: plans take frames, a core graph does not"]
            built = Plans(notes=said if engine == "auto" else [])
        else:
            _return_memory()  # the builder's process has gigabytes of its own
            built = build_plans(
                folder,
                verified,
                engine=engine,
                targets=targets,
                level=level,
                workspace_bytes=workspace_bytes,
                stages=stages,
            )
        for note in built.notes:
            on_note(note)
        write_manifest(folder, replace(verified, plans=built.entries))
    return open_bundle(out)
