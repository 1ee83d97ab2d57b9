"""Export: from a checkpoint to a verified bundle, or to nothing. What is wrong is said before torch is loaded."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from e2e_deploy.bundle.bundle import Bundle, open_bundle
from e2e_deploy.bundle.new_bundle import new_bundle
from e2e_deploy.errors import UsageError
from e2e_deploy.export.engines.tensorrt import DEFAULT_LEVEL
from e2e_deploy.export.options import ExportOptions
from e2e_deploy.model.checkpoint import Checkpoint, bundled_id, open_checkpoint
from e2e_deploy.model.coders.swap import swap_coder
from e2e_deploy.names import (
    Domain,
    EngineChoice,
    FamilyName,
    GraphKind,
    Precision,
    Stretch,
    TaskName,
    VaePart,
)
from e2e_deploy.packages import require
from e2e_deploy.progress import Stages

DEFAULT_FRAME_SIZE = (480, 640)


def export_bundle(
    checkpoint: str | Path | Checkpoint | None = None,
    out: str | Path | None = None,
    *,
    task: TaskName | None = None,
    family: FamilyName | None = None,
    domain: Domain | None = None,
    stretch: Stretch | None = None,
    seed: int | None = None,
    vae: str | Path | None = None,
    vae_part: VaePart | None = None,
    precision: Precision = "fp32",
    frame_sizes: Sequence[tuple[int, int]] | None = None,
    resolution: int | None = None,
    pad: int = 0,
    batch: int = 1,
    graph: GraphKind = "frame",
    dynamic: bool = False,
    specialised: bool = True,
    accept_accuracy: bool = False,
    engine: EngineChoice = "auto",
    targets: Sequence[str] = (),
    level: int = DEFAULT_LEVEL,
    workspace_bytes: int | None = None,
    on_open: Callable[[Checkpoint], None] = lambda opened: None,
    on_note: Callable[[str], None] = lambda note: None,
    stages: Stages | None = None,
) -> Bundle:
    """Trace, write and verify; the bundle appears at ``out`` only when every graph is within its parity limit.

    Args:
        checkpoint: a diffusers folder, a hub id pinned to a commit (``owner/name@<40 hex digits>``), an opened
            checkpoint, or None for the packaged e2e-tiny.
        out: folder of the bundle; an existing bundle there is replaced at the very end. None: in the current folder,
            called after the checkpoint and the precision.
        task: depth or normals, where the checkpoint's configs do not tell; None: as they say, else depth.
        family: kind of checkpoint, where its configs do not tell; None: as they say, else e2e-ft.
        domain: of a GeoWizard checkpoint: indoor (where it is None), outdoor, or object, which is one thing alone
            without a background.
        stretch: of a GenPercept checkpoint with a DPT head. none (where it is None): its values as they were trained,
            clipped to 0 to 1. frame: each frame's least value is 0 and its greatest 1, as GenPercept's pipeline has it,
            so that a video flickers.
        seed: of a StableNormal-turbo checkpoint (before v1.5): of the Gaussian noise that its network is given and that
            is fixed in the graph, 0 to 4294967295; 0 where it is None.
        vae: what takes the place of the checkpoint's own VAE, which is most of its work: a folder with a small one (an
            AutoencoderTiny of diffusers, such as TAESD, or another AutoencoderKL), a folder with one in vae/, or a hub
            id pinned to a commit. What it costs beside the checkpoint's own goes into the manifest.
        vae_part: the half that it takes the place of: both (where it is None), encoder or decoder.
        precision: fp32, fp16, bf16 or int8. In 16 bits norm statistics, softmax logits and the last convolution stay
            fp32. int8 is for CPUs; its accuracy and its speed beside fp32 go into the manifest.
        frame_sizes: (H, W) in pixels of the graphs to make; 480x640 if None.
        resolution: longest edge in pixels that the network sees, 0 for the frame's own size; the checkpoint's default
            if None.
        pad: pad the sides the network sees to multiples of this, a multiple of the VAE's stride (8); 0 has them as the
            checkpoint's own pipeline does. At 64 every level of SD2's UNet is doubled exactly.
        batch: N, pictures that a graph takes at once, 1 to 64: uint8 [N, H, W, 3] to depth float32 [N, H, W] or
            normals [N, H, W, 3].
        graph: frame (frame in, result at its size out), or core: rgb [N, 3, H, W] in [-1, 1] at processing size in,
            result [N, 1 or 3, H, W] out, for those who have frame steps of their own. The Engine takes frame graphs.
        dynamic: of a core graph: H and W are open, multiples of 64 px; verified at two sizes.
        specialised: fold what is constant at one step: time, prompt, noise, scales.
        accept_accuracy: write an int8 bundle whose accuracy is outside its limit; every output says so.
        engine: which plans are built beside the ONNX graphs: onnx (none), tensorrt-rtx, tensorrt, inductor (for the
            GPU at hand, without one for the CPU), or auto: what can be built here and is worth it. A named one that
            cannot be built is an error.
        targets: GPUs to build TensorRT-RTX plans for, for example sm89; one portable plan if empty.
        level: the plan builder's optimisation level, 0 (fast to build) to 5. AOTInductor has 3, and on a GPU 5: every
            kernel is chosen by trial.
        workspace_bytes: most memory a kernel of NVIDIA's plans may use besides its tensors; the library's default if
            None.
        on_open: given the checkpoint once it is found, identified and checked.
        on_note: told what ``auto`` built, what not and why.
        stages: says what is being done; silent if None.

    Raises:
        UsageError: a size, precision, plan, target or combination that cannot be used or has no effect, or ``out`` is
            no bundle.
        CheckpointError: no checkpoint is there, or the weights do not fit their configs.
        ParityError: a graph's result is too far from PyTorch's; nothing is written.
        UnavailableError: torch is not installed, or a named plan's library or GPU is not here.
        E2EDeployError: the graph is not clean, a plan cannot be built, the disk is full or the folder cannot
            be written.
    """
    options = ExportOptions(
        precision=precision,
        frame_sizes=tuple(dict.fromkeys(frame_sizes or [DEFAULT_FRAME_SIZE])),
        resolution=resolution,
        pad=pad,
        batch=batch,
        graph=graph,
        dynamic=dynamic,
        specialised=specialised,
        accept_accuracy=accept_accuracy,
        engine=engine,
        targets=tuple(targets),
        level=level,
        workspace_bytes=workspace_bytes,
    )
    settings = {
        "domain": domain,
        "stretch": stretch,
        "seed": None if seed is None else str(seed),
    }
    opened = _open(checkpoint, task, family, settings)
    opened = _with_vae(opened, vae, vae_part)
    on_open(opened)
    require("torch", "export")
    from e2e_deploy.export.writing import write_bundle  # torch takes seconds to load

    folder = default_out(opened.id, precision) if out is None else Path(out)
    with new_bundle(folder, on_note) as partial:
        write_bundle(partial, opened, options, on_note, stages or Stages(quiet=True))
    return open_bundle(folder)


def _open(
    checkpoint: str | Path | Checkpoint | None,
    task: TaskName | None,
    family: FamilyName | None,
    settings: Mapping[str, str | None],
) -> Checkpoint:
    chosen = {name: value for name, value in settings.items() if value is not None}
    if isinstance(checkpoint, Checkpoint):
        for name, value in {"task": task, "family": family, **chosen}.items():
            if value is not None:
                raise UsageError(f"`{name}` is decided already of a checkpoint that is opened")
        return checkpoint
    named = bundled_id(task or "depth") if checkpoint is None else checkpoint
    return open_checkpoint(named, family=family, task=task, settings=chosen)


def _with_vae(checkpoint: Checkpoint, vae: str | Path | None, part: VaePart | None) -> Checkpoint:
    if vae is None:
        if part is not None:
            raise UsageError("`vae_part` is a half of what `vae` names, and nothing is named")
        return checkpoint
    return swap_coder(checkpoint, vae, part or "both")


def default_out(checkpoint_id: str, precision: Precision) -> Path:
    """The bundle's folder where none is named: in the current folder, after the checkpoint's folder or hub id."""
    is_folder = Path(checkpoint_id).is_dir()
    name = checkpoint_id if is_folder else checkpoint_id.partition("@")[0].removeprefix("bundled:")
    return Path(f"{os.path.basename(os.path.abspath(name))}-{precision}")
