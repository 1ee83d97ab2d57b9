"""From an opened checkpoint to the files of its bundle: the order of things, every step by its name."""

import contextlib
import ctypes
import datetime
import gc
import platform
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
from torch import nn

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.bundle.manifest import (
    CheckpointEntry,
    GraphEntry,
    Manifest,
    PassEntry,
    VaeEntry,
    VariantEntry,
)
from e2e_deploy.bundle.new_bundle import write_manifest
from e2e_deploy.export.coder_cost import costs, judge_latents, measure_without
from e2e_deploy.export.engines.build import build_plans, opset_for, plan_jobs, require_level
from e2e_deploy.export.graph.precision import FP32_PARTS
from e2e_deploy.export.graph.prepare import prepare
from e2e_deploy.export.onnx import for_cuda, quantise, trace
from e2e_deploy.export.onnx.lint import require_clean, require_whole
from e2e_deploy.export.options import ExportOptions
from e2e_deploy.export.subject import Subject, plan_subjects
from e2e_deploy.export.verified import (
    judged,
    verify_in_onnxruntime,
    verify_in_openvino,
    verify_in_torch,
)
from e2e_deploy.export.verified_packages import verified_packages
from e2e_deploy.model.checkpoint import Checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.model.single_step import SingleStepModel
from e2e_deploy.names import ONNXRUNTIME_CUDA, Precision
from e2e_deploy.packages import installed_versions
from e2e_deploy.progress import Stages
from e2e_deploy.version import __version__

KEPT_FP32 = {"fp16": FP32_PARTS, "bf16": FP32_PARTS, "int8": quantise.FP32_PARTS}
FP32 = "fp32"
"""Folder of the graphs that int8 is made from and measured beside; gone when the bundle is there."""

LARGE_MODEL_PARAMETERS = 200_000_000
_PACKAGES = ("torch", "diffusers", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime", "numpy")


def package_versions() -> dict[str, str]:
    """Versions of what decides an export's result."""
    ours = {"e2e-deploy": __version__, "python": platform.python_version()}
    return ours | installed_versions(_PACKAGES)


def write_bundle(
    folder: Path,
    checkpoint: Checkpoint,
    options: ExportOptions,
    on_note: Callable[[str], None],
    stages: Stages,
) -> None:
    """Fill ``folder`` with the bundle of a checkpoint.

    Args:
        folder: empty.
        checkpoint: opened.
        options: what is asked for.
        on_note: told what a user should know, a sentence each.
        stages: says what is being done.

    Raises:
        E2EDeployError: as ``export_bundle``.
    """
    is_int8, precision = options.precision == "int8", options.precision
    # A named plan that cannot be built is said before the work.
    jobs, _ = plan_jobs(options.engine, options.targets, precision, options.graph)
    if options.engine == "inductor":
        require_level(jobs, options.level)
    coder, own = checkpoint.coder, replace(checkpoint, coder=None)
    with stages("load checkpoint"):
        model, digest = load_model(own), checkpoint.sha256()
    subjects = plan_subjects(
        list(options.frame_sizes),
        model=model,
        resolution=_resolution(checkpoint, options),
        pad=options.pad,
        kind=options.graph,
        dynamic=options.dynamic,
        batch=options.batch,
    )
    without = None
    if coder is not None:
        with stages("results with the checkpoint's own VAE (torch, fp32)"):
            without = measure_without(model, subjects, _pictures(model, subjects[0]))
        del model
        with stages("load checkpoint with its other VAE"):
            model = load_model(checkpoint)
    notes = _notes(checkpoint)
    if coder is not None and without is not None:
        notes += judge_latents(coder, model, subjects[0], without)
    _write_references(model, subjects, folder, stages)
    body, passes = _prepare(model, subjects, options, stages)
    del model  # its layers are the body's now
    traced = subjects[:1] if options.dynamic else subjects
    source = folder / FP32 if is_int8 else folder
    source.mkdir(exist_ok=True)
    variants = _trace(
        body,
        traced,
        source,
        precision=precision,
        opset=opset_for(precision, jobs),
        lint=options.specialised,
        stages=stages,
    )
    verdicts = verify_in_torch(body, subjects, precision, folder, stages)
    del body
    _return_memory()
    if is_int8:
        _quantise(source, traced, folder, stages)
    graphs = [
        replace(subject.entry, variants=variants.get(subject.entry.onnx, []))
        for subject in subjects
    ]
    manifest = _manifest(checkpoint, digest, options, graphs, passes, opset_for(precision, jobs))
    vae = None
    if coder is not None and without is not None:
        vae = VaeEntry(
            id=coder.id,
            sha256=coder.sha256(),
            part=coder.part,
            costs=costs(subjects, folder, without),
        )
    manifest = replace(manifest, notes=notes, vae=vae)
    write_manifest(folder, manifest)
    verdicts = verdicts or verify_in_onnxruntime(folder, stages)
    more, unjudged = verify_in_openvino(folder, stages) if is_int8 else ([], [])
    verdicts += more
    manifest = replace(manifest, verification=judged(verdicts, accepted=options.accept_accuracy))
    if is_int8:
        with stages("compare speed with fp32"):
            manifest = quantise.with_speed(open_bundle(folder), manifest, source.name)
        shutil.rmtree(source)
    _return_memory()  # the builder's process has gigabytes of its own
    built = build_plans(
        folder,
        manifest,
        engine=options.engine,
        targets=options.targets,
        level=options.level,
        workspace_bytes=options.workspace_bytes,
        checkpoint=checkpoint,
        stages=stages,
    )
    manifest = write_manifest(folder, replace(manifest, plans=built.entries))
    manifest, notes = verified_packages(folder, manifest, options.engine, stages)
    for note in (*manifest.notes, *unjudged, *built.notes, *notes):
        on_note(note)
    write_manifest(folder, manifest)


def _resolution(checkpoint: Checkpoint, options: ExportOptions) -> int:
    return checkpoint.resolution if options.resolution is None else options.resolution


def _write_references(
    model: SingleStepModel, subjects: list[Subject], folder: Path, stages: Stages
) -> None:
    for subject in subjects:
        with stages(f"reference results {subject.label} (torch, fp32)"):
            subject.write_reference(model, folder, count=_pictures(model, subject))


def _pictures(model: SingleStepModel, subject: Subject) -> int:
    """How many reference pictures there are of a subject."""
    # Every weight is needed for every picture; for a full-size model one takes a minute on a CPU.
    parameters = sum(p.numel() for p in model.parameters())
    return 1 if parameters > LARGE_MODEL_PARAMETERS and subject.entry.batch == 1 else 2


def _prepare(
    model: SingleStepModel, subjects: list[Subject], options: ExportOptions, stages: Stages
) -> tuple[nn.Module, list[PassEntry]]:
    with stages("specialise" if options.specialised else "prepare"):
        return prepare(
            model,
            precision="fp32" if options.precision == "int8" else options.precision,
            specialised=options.specialised,
            sizes_hw=[subject.plan.padded_hw for subject in subjects],
        )


def _trace(
    body: nn.Module,
    subjects: list[Subject],
    folder: Path,
    *,
    precision: Precision,
    opset: int,
    lint: bool,
    stages: Stages,
) -> dict[str, list[VariantEntry]]:
    """Write the graphs of ``subjects`` into ``folder``; the variants that were written of them, by their files."""
    num_bytes = sum(t.numel() * t.element_size() for t in body.state_dict().values())
    varied = [s.entry.onnx for s in subjects if for_cuda.has_variant(precision, s.entry.kind)]
    variants: dict[str, list[VariantEntry]] = {}
    with ExitStack() as stack:  # the weight file is closed whatever happens
        weights = None
        if varied or len(subjects) > 1 or num_bytes > trace.MAX_INLINE_BYTES:
            weights = stack.enter_context(trace.WeightFile(folder / "model.data"))
        for subject in subjects:
            entry = subject.entry
            with stages(f"trace {subject.label}"):
                graph = trace.trace(
                    subject.module(body),
                    subject.example(),
                    input_name=entry.inputs[0].name,
                    output_names=[spec.name for spec in entry.outputs],
                    opset=opset,
                    multiple_of=entry.multiple_of,
                )
                if lint:
                    require_clean(graph, "onnxruntime")
            with stages(f"write {entry.onnx}"):
                trace.save(graph, folder / entry.onnx, weights)
            if entry.onnx in varied:
                with stages(f"write its form for {ONNXRUNTIME_CUDA}"):
                    written = _write_variant(graph, folder, entry.onnx, weights, lint)
                variants[entry.onnx] = [written] if written else []
            del graph
    for subject in subjects:
        require_whole(folder / subject.entry.onnx)
        for variant in variants.get(subject.entry.onnx, []):
            require_whole(folder / variant.onnx, variant.target)
    return variants


def _write_variant(
    graph: ir.Model, folder: Path, onnx: str, weights: trace.WeightFile | None, lint: bool
) -> VariantEntry | None:
    """Write ``graph``, which was written as ``onnx``, once more for ONNX Runtime on CUDA. CHANGES ``graph``.

    None, and no file, where nothing in it has a kernel of that provider's own.
    """
    operators = for_cuda.fit_cuda(graph)
    if not any(operators.values()):
        return None
    if lint:
        require_clean(graph, ONNXRUNTIME_CUDA)
    name = f"{onnx.removesuffix('.onnx')}-{ONNXRUNTIME_CUDA}.onnx"
    trace.save(graph, folder / name, weights)
    return VariantEntry(target=ONNXRUNTIME_CUDA, onnx=name, operators=operators)


def _return_memory() -> None:
    """Give freed memory back to the system before others take their own copies of the weights."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


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


def _manifest(
    checkpoint: Checkpoint,
    digest: str,
    options: ExportOptions,
    graphs: list[GraphEntry],
    passes: list[PassEntry],
    opset: int,
) -> Manifest:
    """What the bundle is, before it is verified and plans are built."""
    return Manifest(
        task=checkpoint.identity.task,
        outputs=list(checkpoint.identity.outputs),
        settings=dict(checkpoint.settings),
        family=checkpoint.identity.family.name,
        checkpoint=CheckpointEntry(id=checkpoint.id, sha256=digest, note=checkpoint.note),
        resolution=_resolution(checkpoint, options),
        pad=options.pad,
        precision=options.precision,
        fp32_ops=_kept_fp32(checkpoint, options.precision),
        opset=opset,
        graphs=graphs,
        passes=passes,
        versions=package_versions(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _kept_fp32(checkpoint: Checkpoint, precision: Precision) -> list[str]:
    """What stays fp32, in words."""
    kept = list(KEPT_FP32.get(precision, ()))
    block = checkpoint.identity.family.unet_block
    return [*kept, f"the UNet's {block}"] if kept and block else kept


def _notes(checkpoint: Checkpoint) -> list[str]:
    """What a user should know of a checkpoint's settings, a sentence each."""
    if checkpoint.settings.get("stretch") == "frame":
        return [
            'each frame is stretched to 0 to 1 by itself (`stretch="frame"`): a video flickers, and values of two '
            "frames cannot be compared"
        ]
    return []
