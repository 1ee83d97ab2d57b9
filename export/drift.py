"""Where half precision loses: every layer in its precision beside the same layer in fp32, on real frames.

Both are the modules that are traced, run one after the other; of each layer's output a fixed sample is kept, so a
full-size model needs no more memory than its weights. Knows torch modules and checkpoints; knows no ONNX.
"""

import csv
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from e2e_deploy.bundle.bundle import Bundle, open_bundle
from e2e_deploy.errors import UsageError
from e2e_deploy.export.graph.precision import Fp32Island
from e2e_deploy.export.graph.prepare import prepare
from e2e_deploy.model.checkpoint import Checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.model.single_step import FrameModel
from e2e_deploy.names import Precision
from e2e_deploy.runtime.backends.torch import original_checkpoint
from e2e_deploy.system.files import make_folder, whole_file
from e2e_deploy.system.opencv import cv2

SAMPLE = 16_384
"""Values kept of each layer's output, evenly spread."""

FP16_MAX = 65504.0
_PLOT_HW = (420, 1100)


@dataclass(frozen=True)
class LayerDrift:
    """One layer's output in the precision under test, compared with fp32.

    Attributes:
        layer: path of the torch module.
        kind: its class.
        largest: largest absolute value in fp32.
        headroom: 65504 divided by that; below 1 fp16 overflows.
        relative_error: |candidate - fp32| / |fp32| in the Euclidean norm over the sample.
        entered: how much that is above the layer before it; where error enters.
    """

    layer: str
    kind: str
    largest: float
    headroom: float
    relative_error: float
    entered: float


def _leaves(body: nn.Module) -> list[tuple[str, nn.Module]]:
    """Layers with weights, by the names they have before precision wraps them."""
    found = []
    for name, module in body.named_modules():
        inner = module.inner if isinstance(module, Fp32Island) else module
        inside_island = name.endswith(".inner")
        if (
            not inside_island
            and not any(True for _ in inner.children())
            and any(True for _ in inner.parameters())
        ):
            # An island may hold many layers.
            found.append((name.removeprefix("model.").replace(".inner.", "."), module))
    return found


def _record(
    body: nn.Module, frame_model: FrameModel, frame: Tensor
) -> tuple[dict[str, npt.NDArray[np.float64]], dict[str, float], dict[str, str]]:
    """A sample of every layer's output, its largest magnitude, and the layer's class, in order of execution."""
    samples: dict[str, npt.NDArray[np.float64]] = {}
    largest: dict[str, float] = {}
    kinds: dict[str, str] = {}
    hooks = []

    def watch(name: str, module: nn.Module) -> None:
        def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            flat = output.detach().flatten()
            largest[name] = float(flat.abs().max())
            samples[name] = flat[:: max(1, flat.numel() // SAMPLE)].double().numpy()
            kinds[name] = type(module.inner if isinstance(module, Fp32Island) else module).__name__

        hooks.append(module.register_forward_hook(keep))

    for name, module in _leaves(body):
        watch(name, module)
    try:
        with torch.no_grad():
            frame_model(frame)
    finally:
        for hook in hooks:
            hook.remove()
    return samples, largest, kinds


def layer_drift(
    checkpoint: Checkpoint,
    frame: npt.NDArray[np.uint8],
    precision: Precision,
    *,
    resolution: int | None = None,
    pad: int = 0,
) -> list[LayerDrift]:
    """Compare every layer in ``precision`` with fp32 on one frame, in order of execution.

    Args:
        checkpoint: what to load, twice.
        frame: uint8 RGB [H, W, 3].
        precision: fp16 or bf16.
        resolution: longest edge the network sees; the checkpoint's default if None.
        pad: sides are padded to multiples of this; 0 as the checkpoint's own pipeline does.

    Raises:
        CheckpointError: the checkpoint does not load.
    """
    recorded = []
    for each in ("fp32", precision):
        model = load_model(checkpoint)
        longest_edge = checkpoint.resolution if resolution is None else resolution
        plan = model.plan((frame.shape[0], frame.shape[1]), longest_edge, pad)
        outputs = [kind.name for kind in model.kinds]
        body, _ = prepare(model, precision=each, specialised=True, sizes_hw=[plan.padded_hw])
        frame_model = FrameModel(body, plan, outputs).eval()
        recorded.append(_record(body, frame_model, torch.from_numpy(frame)[None]))
        del model, body, frame_model
    (reference, largest, kinds), (candidate, _, _) = recorded
    report = []
    before = 0.0
    for name, values in reference.items():
        norm = max(float(np.linalg.norm(values)), 1e-30)
        error = float(np.linalg.norm(candidate[name] - values)) / norm
        headroom = FP16_MAX / max(largest[name], 1e-30)
        report.append(LayerDrift(name, kinds[name], largest[name], headroom, error, error - before))
        before = error
    return report


def require_half(bundle: Bundle) -> None:
    """Refuse a bundle whose layers there is nothing to compare of.

    Raises:
        UsageError: it is not in half precision, or its graphs take no frames.
    """
    precision, kind = bundle.manifest.precision, bundle.manifest.graphs[0].kind
    if precision not in ("fp16", "bf16") or kind != "frame":
        raise UsageError(
            f"`layers` compares half precision with fp32 on frames, and this bundle is {precision} of {kind} graphs"
        )


def report_drift(
    bundle: str | Path | Bundle, folder: str | Path, *, checkpoint: str | Path | None = None
) -> list[LayerDrift]:
    """Every layer of a half-precision bundle beside fp32 on its first stored frame, as layers.csv and layers.png.

    Args:
        bundle: its folder, or an opened bundle.
        folder: written to.
        checkpoint: what the bundle was exported from; None: what the manifest names, if that is a folder here.

    Returns:
        What stands in layers.csv, in order of execution.

    Raises:
        UsageError: the bundle is not in half precision, or its graphs take no frames.
        BundleError: no bundle, or the reference cannot be read.
        CheckpointError: the checkpoint is not here, or is another.
        E2EDeployError: the folder cannot be written, or the disk is full.
    """
    opened = open_bundle(bundle)
    require_half(opened)
    manifest, graph = opened.manifest, opened.manifest.graphs[0]
    if checkpoint is not None:
        opened = replace(opened, checkpoint=str(checkpoint))
    original = original_checkpoint(opened)
    frames, _ = opened.reference(graph)
    report = layer_drift(
        original, frames[0], manifest.precision, resolution=manifest.resolution, pad=manifest.pad
    )
    folder = Path(folder)
    make_folder(folder)
    write_table(report, folder / "layers.csv")
    title = f"{manifest.precision} against fp32, {original.id}"
    write_plot(report, folder / "layers.png", title)
    return report


def write_table(report: list[LayerDrift], path: Path) -> None:
    """The report as CSV, a line a layer in order of execution."""
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [f.name for f in fields(LayerDrift)])
        writer.writeheader()
        writer.writerows(asdict(layer) for layer in report)


def write_plot(report: list[LayerDrift], path: Path, title: str) -> None:
    """The relative error over the layers as a PNG, logarithmic; the layers where most of it enters are named."""
    height, width = _PLOT_HW
    left, right, top, bottom = 70, 20, 40, 40
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    errors = np.array([max(layer.relative_error, 1e-9) for layer in report])
    errors[~np.isfinite(errors)] = 1e3
    low, high = np.floor(np.log10(errors.min())), np.ceil(np.log10(errors.max()) + 1e-9)
    xs = np.linspace(left, width - right, len(errors))
    ys = top + (high - np.log10(errors)) / max(high - low, 1.0) * (height - top - bottom)

    def write(text: str, at: tuple[int, int], scale: float = 0.4) -> None:
        cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, (30, 30, 30), 1, cv2.LINE_AA)

    for decade in range(int(low), int(high) + 1):
        y = int(top + (high - decade) / max(high - low, 1.0) * (height - top - bottom))
        cv2.line(canvas, (left, y), (width - right, y), (225, 225, 225), 1)
        write(f"1e{decade}", (12, y + 4))
    points = np.stack([xs, ys], axis=1).astype(np.int32)
    cv2.polylines(canvas, [points.reshape(-1, 1, 2)], False, (180, 90, 20), 1, cv2.LINE_AA)
    write(title, (left, 22), 0.5)
    write("layers, in order of execution", (left, height - 12))
    for rank, index in enumerate(np.argsort([-layer.entered for layer in report])[:5]):
        x, y = points[index]
        cv2.circle(canvas, (int(x), int(y)), 3, (0, 0, 200), -1)
        label = report[index].layer
        write(
            label, (max(left, min(int(x) - 60, width - 8 * len(label))), top + 14 + 14 * rank), 0.36
        )
    ok, data = cv2.imencode(".png", canvas)
    assert ok
    with whole_file(path) as partial:
        partial.write_bytes(data.tobytes())
