"""What one graph of a bundle computes: a frame to its result, or only the core of that, network size to network size.

Knows how pictures become the input of either kind and what the manifest says of it; knows no ONNX and no precision.

N pictures, H W of the frame, H' W' of what the network sees, C channels of the result.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.bundle.manifest import GraphEntry, TensorSpec
from e2e_deploy.bundle.reference import in_batches
from e2e_deploy.errors import UsageError
from e2e_deploy.export.open_sides import MAX_SIDE_PX, MIN_STEPS, STEP_PX, check_sizes
from e2e_deploy.frames import FramePlan, plan_frame
from e2e_deploy.kinds import KINDS
from e2e_deploy.limits import measure_parity
from e2e_deploy.model.single_step import FrameModel, SingleStepModel
from e2e_deploy.names import GraphKind, Precision, ResultKind
from e2e_deploy.runtime.backends.layout import Results
from e2e_deploy.runtime.checks.verify import Verdict, as_map, verdicts_of


class _Apart(nn.Module):
    """The core's results, which come side by side in one tensor, as a tensor each."""

    def __init__(self, core: nn.Module, outputs: Sequence[ResultKind]) -> None:
        super().__init__()
        self.core = core
        self.channels = [KINDS[name].channels for name in outputs]

    def forward(self, rgb_N3HW: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.split(self.core(rgb_N3HW), self.channels, dim=1))


@dataclass(frozen=True)
class Subject:
    """One size of a graph.

    Attributes:
        plan: how a frame of this size reaches the network and comes back.
        outputs: kinds of its results.
        entry: what the manifest says of it.
    """

    plan: FramePlan
    outputs: tuple[ResultKind, ...]
    entry: GraphEntry

    @property
    def label(self) -> str:
        """The size as it stands in file names: HEIGHTxWIDTH."""
        return f"{self.entry.frame_hw[0]}x{self.entry.frame_hw[1]}"

    def module(self, model: nn.Module) -> nn.Module:
        """What is traced, around or of ``model``, rgb to results: one tensor, or a tuple of several."""
        if self.entry.kind == "frame":
            return FrameModel(model, self.plan, self.outputs).eval()
        return (model if len(self.outputs) == 1 else _Apart(model, self.outputs)).eval()

    def inputs(self, frames_NHW3: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """Frames of the plan's size as the graph takes them: themselves, or rgb float32 [N, 3, H', W'] in [-1, 1]."""
        if self.entry.kind == "frame":
            return frames_NHW3
        steps = FrameModel(nn.Identity(), self.plan, self.outputs)
        return steps.to_network(torch.from_numpy(frames_NHW3)).numpy()

    def example(self) -> torch.Tensor:
        """Inputs to trace on: as many as the graph takes at once."""
        inputs = self.inputs(reference_frames(self.plan.frame_hw, 1))
        return torch.from_numpy(np.repeat(inputs, self.entry.batch, axis=0))

    def run(self, model: nn.Module, inputs: npt.NDArray[Any], batch: int = 1) -> Results:
        """Results of ``model`` in torch for every input, by output, ``batch`` of them at once."""
        module = self.module(model)
        results = {
            kind.output: np.empty((len(inputs), *self.entry.shapes(kind)[1]), np.float32)
            for kind in (KINDS[name] for name in self.outputs)
        }
        with torch.inference_mode():
            for indices in in_batches(len(inputs), batch):
                made = module(torch.from_numpy(inputs[indices]))
                made = made if isinstance(made, tuple) else (made,)
                for kept, each in zip(results.values(), made, strict=True):
                    kept[indices] = each.numpy()
        return results

    def write_reference(self, model: nn.Module, folder: Path, *, count: int) -> None:
        """Store ``count`` inputs and the results of ``model``, the fp32 reference, for them."""
        path = folder / self.entry.reference
        path.parent.mkdir(exist_ok=True)
        inputs = self.inputs(reference_frames(self.plan.frame_hw, count))
        results: dict[str, Any] = self.run(model, inputs)
        np.savez_compressed(path, frames=inputs, **results)

    def verify_module(self, body: nn.Module, precision: Precision, folder: Path) -> list[Verdict]:
        """Parity of the traced module itself, a verdict an output, where ONNX Runtime has no kernels for its type."""
        with np.load(folder / self.entry.reference, allow_pickle=False) as stored:
            references = dict(stored)
        inputs = references.pop("frames")
        results = self.run(body, inputs, self.entry.batch)
        parities = {}
        for kind in self.outputs:
            name = KINDS[kind].output
            pairs = zip(results[name], references[name], strict=True)
            parities[kind] = [
                measure_parity(kind, *(as_map(self.entry, each) for each in pair)) for pair in pairs
            ]
        return verdicts_of(self.entry, "torch", "CPU", precision, parities)


def _subject(
    plan: FramePlan,
    outputs: tuple[ResultKind, ...],
    kind: GraphKind,
    multiple_of: int,
    *,
    batch: int,
    single: bool,
) -> Subject:
    kinds = [KINDS[name] for name in outputs]
    height, width = size = plan.frame_hw if kind == "frame" else plan.padded_hw
    shapes: dict[str, Any] = {
        "kind": kind,
        "multiple_of": multiple_of,
        "frame_size": list(size),
        "processing_size": list(plan.padded_hw),
        "onnx": "model.onnx" if single else f"model_{height}x{width}.onnx",
        "reference": f"reference/{height}x{width}.npz",
    }
    takes, gives = GraphEntry(**shapes, inputs=[], outputs=[]).declared(kinds, batch)
    sides = f"; sides are multiples of {multiple_of}" if multiple_of else ""
    given = (
        TensorSpec(name="frame", dtype="uint8", shape=takes, meaning="RGB, 0 to 255")
        if kind == "frame"
        else TensorSpec(name="rgb", dtype="float32", shape=takes, meaning=f"RGB, -1 to 1{sides}")
    )
    results = [
        TensorSpec(
            name=kind.output,
            dtype="float32",
            shape=shape,
            meaning=f"{kind.meaning}; units: {kind.units}",
        )
        for kind, shape in zip(kinds, gives, strict=True)
    ]
    return Subject(plan, outputs, GraphEntry(**shapes, inputs=[given], outputs=results))


def _dynamic_plans(plans: list[FramePlan], step: int) -> list[FramePlan]:
    """The plans, and a second processing size if they have one: open sides are proven at two sizes.

    Raises:
        UsageError: a processing size is outside what a dynamic graph takes.
    """
    height, width = plans[0].padded_hw
    for side in (height, width):
        if not MIN_STEPS * step <= side <= MAX_SIDE_PX:
            raise UsageError(
                f"a dynamic graph takes sides of {MIN_STEPS * step} to {MAX_SIDE_PX} px, and {height}x{width} is the "
                "processing size; choose other `frame_sizes` or another `resolution`"
            )
    if len(plans) > 1:
        return plans
    other = width - step if width + step > MAX_SIDE_PX else width + step
    second = (width, height) if height != width else (height, other)
    return [*plans, plan_frame(second, 0, step)]


def plan_subjects(
    sizes: list[tuple[int, int]],
    *,
    model: SingleStepModel,
    resolution: int,
    pad: int = 0,
    kind: GraphKind = "frame",
    dynamic: bool = False,
    batch: int = 1,
) -> list[Subject]:
    """What to trace for frames of ``sizes``; of a dynamic graph only the first is traced and each is verified.

    Args:
        sizes: (H, W) of frames; of a core graph each gives a processing size.
        model: whose strides and family decide about processing sizes.
        resolution: longest edge the network sees; 0 for the frame's own size.
        pad: pad to multiples of this; 0 as the family's own pipeline does. Core graphs are padded in any case, so that
            their result has the size of their input.
        kind: frame or core.
        dynamic: leave H and W open, multiples of 64 px.
        batch: pictures a graph takes at once.

    Raises:
        UsageError: a size that cannot be used, or a dynamic graph of frames.
    """
    check_sizes(sizes, kind=kind, dynamic=dynamic)
    if dynamic and not model.family.is_any_size:
        raise UsageError(
            f"part of {model.family.title}'s network is made for one size, so its graph cannot be dynamic; "
            "name each size with `frame_sizes`"
        )
    step = math.lcm(STEP_PX, model.network_stride) if dynamic else 0
    if dynamic and pad and step % pad:
        raise UsageError(
            f"a dynamic graph takes sides that are multiples of {step}; they cannot be padded to {pad}"
        )
    if kind == "core":
        pad = step or pad or model.result_stride
    plans = [model.plan(size, resolution, pad) for size in sizes]
    if kind == "core":
        if any(plan.result_hw != plan.padded_hw for plan in plans):
            raise UsageError(
                f"a core graph's result has the size of its input, which must be a multiple of {model.result_stride} "
                f"with this checkpoint; `pad` is {pad}"
            )
        plans = list({plan.padded_hw: plan for plan in plans}.values())
    if dynamic:
        plans = _dynamic_plans(plans, step)
    single = dynamic or len(plans) == 1
    outputs = tuple(each.name for each in model.kinds)
    return [_subject(plan, outputs, kind, step, batch=batch, single=single) for plan in plans]
