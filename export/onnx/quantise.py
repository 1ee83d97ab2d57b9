"""int8 for CPUs: ONNX Runtime's own static quantiser on the fp32 graph, with ranges from real pictures.

ONNX Runtime and OpenVINO run it, each with kernels of its own; each is judged, and timed beside its fp32.

Weights get a scale a channel, activations a scale a tensor (unsigned); scales stand in the graph as pairs of
QuantizeLinear and DequantizeLinear, which ONNX Runtime fuses into 8-bit kernels. On CPUs without 8-bit dot products
(x86 without VNNI) sums saturate unless a session asks for precision, as ours do. What FP32_PARTS names stays fp32.

An attention node (export/graph/multi_head.py) stays as it is: only Conv and MatMul are touched, and shape
inference, which the quantiser starts with, reads the node's types out of the function the graph carries.

Knows ONNX files and bundles; knows nothing of checkpoints or torch.
"""

import logging
import math
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.bundle.manifest import GraphEntry, Manifest, VerificationEntry
from e2e_deploy.bundle.onnx_paths import external_locations
from e2e_deploy.bundle.reference import in_batches
from e2e_deploy.errors import UnavailableError
from e2e_deploy.export.onnx import trace
from e2e_deploy.model.families import FAMILIES
from e2e_deploy.names import BACKENDS, BackendName
from e2e_deploy.nvidia.hardware import available_memory_bytes
from e2e_deploy.packages import import_onnxruntime, require
from e2e_deploy.runtime.backends import load_backend
from e2e_deploy.runtime.checks.verify import as_given

FP32_PARTS = (
    "first and last convolutions of each network",
    "normalisation",
    "attention logits, softmax and products",
    "frame steps",
)
"""What stays fp32 in an int8 graph; goes into the manifest."""

OPERATORS = ("Conv", "MatMul")
KEPT = frozenset(
    {"conv_in", "conv_out", "quant_conv", "post_quant_conv", "gate", "logits", "patch_embedding"}
    | {"picture_context"}
)
"""Layers that stay fp32: they carry pictures, latents of four channels, or logits; together under 2 % of the work."""
KEPT_BLOCKS = frozenset({family.unet_block for family in FAMILIES.values()} - {""})
"""Blocks of which every layer does: spectra, whose largest bin is a hundred times the others, and angles."""

KEPT_IN_HEADS = ("head.head.head.2", "head.head.head.4")
"""Likewise the last two of a DPT head, at the picture's size."""

ENDS = re.compile(r"(^|\.)(encoder|decoder)\.layers\.\d+$")
"""Of a small coder: a layer that stays fp32 too where it is among its ends, which take or give few channels."""
MAX_END_CHANNELS = 4

FRAME_STEPS = "frame"
"""Where nodes stand that belong to no layer: resizing in and out."""

PAIRS = 9
"""Times both graphs are run, in turn, when their speed is compared."""


def calibration_frames(frame_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Real frames [4, H, W, 3] to take ranges from: the packaged pictures mirrored, and their middle twice as large.

    None of them is a frame that the stored reference judges the graph by.
    """
    height, width = frame_hw
    mirrored = reference_frames(frame_hw)[:, :, ::-1]
    top, left = height // 2, width // 2
    closer = reference_frames((2 * height, 2 * width))
    closer = closer[:, top : top + height, left : left + width]
    return np.ascontiguousarray(np.concatenate([mirrored, closer]))


def _fewest_channels(weight: ir.Value) -> int:
    """Of what a convolution of that weight takes and gives."""
    return 0 if weight.shape is None else min(weight.shape.numpy()[:2])


def nodes_to_quantise(model: ir.Model) -> list[str]:
    """Names of the convolutions and products with constant matrices that become 8 bits wide."""
    found = []
    for node in model.graph:
        layer = str(node.name).rpartition("/")[0]
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        if (
            node.op_type in OPERATORS
            and weight is not None
            and weight.is_initializer()
            and layer != FRAME_STEPS
            and layer.rpartition(".")[2] not in KEPT
            and not layer.endswith(KEPT_IN_HEADS)
            and not (ENDS.search(layer) and _fewest_channels(weight) <= MAX_END_CHANNELS)
            and KEPT_BLOCKS.isdisjoint(layer.split("."))
        ):
            found.append(str(node.name))
    return found


ALLOCATED = 1.5
"""What ONNX Runtime's arena takes for what it is asked for; 21.8 GB counted were more than 23 GB."""


def calibration_bytes(model: ir.Model) -> int:
    """Memory that taking the ranges needs.

    Every result the quantiser looks at, which it holds until a run ends, and the weights twice, as they are and as laid
    out for ONNX Runtime's kernels. Open sides count nothing.
    """
    values = {
        str(value.name): math.prod(int(side) for side in value.shape.numpy()) * 4
        for node in model.graph
        if node.op_type in OPERATORS
        for value in (*node.inputs, *node.outputs)
        if value is not None
        and not value.is_initializer()
        and value.shape is not None
        and value.shape.is_static()
    }
    return int(ALLOCATED * (sum(values.values()) + 2 * trace.weight_bytes(model)))


def _require_memory(model: ir.Model) -> None:
    """Raise before the system ends this process, which is how it says that memory has run out.

    Raises:
        UnavailableError: the ranges cannot be taken in the memory that is free.
    """
    needed, free = calibration_bytes(model), available_memory_bytes()
    if free is not None and needed > free:
        raise UnavailableError(
            f"taking the ranges for int8 needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB of "
            "memory are free: use smaller `frame_sizes` or a smaller `resolution`, or a machine with more"
        )


class _Inputs:
    """Inputs a batch at a time, as the quantiser wants to be given them."""

    def __init__(self, name: str, inputs: npt.NDArray[Any], batch: int) -> None:
        self._rest: Iterator[dict[str, npt.NDArray[Any]]] = (
            {name: inputs[indices]} for indices in in_batches(len(inputs), batch)
        )

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        return next(self._rest, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantiser's advice to fold what our passes have folded."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def quantise(
    source: Path,
    target: Path,
    inputs: npt.NDArray[Any],
    weights: trace.WeightFile | None = None,
) -> int:
    """Write the fp32 graph in ``source`` to ``target`` with 8-bit convolutions and products.

    Args:
        source: ONNX file; files are made beside it and removed.
        target: ONNX file to write.
        inputs: what ranges are taken from, [N, ...] of the graph's one input without its batch axis.
        weights: where the weights go; into ``target`` if None.

    Returns:
        How many nodes are 8 bits wide.

    Raises:
        UnavailableError: too little memory is free.
    """
    import_onnxruntime()
    tools = require("onnxruntime.quantization", "export")
    graph = ir.load(source)
    _require_memory(graph)
    nodes, taken = nodes_to_quantise(graph), graph.graph.inputs[0]
    name, first = str(taken.name), taken.shape[0] if taken.shape else 1
    batch = first if isinstance(first, int) else 1
    del graph
    with tempfile.TemporaryDirectory(prefix="int8-", dir=source.parent) as folder, _quiet():
        written = Path(folder) / "model.onnx"
        tools.quantize_static(
            source,
            written,
            _Inputs(name, inputs, batch),
            quant_format=tools.QuantFormat.QDQ,
            calibrate_method=tools.CalibrationMethod.MinMax,
            op_types_to_quantize=list(OPERATORS),
            nodes_to_quantize=nodes,
            per_channel=True,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
            use_external_data_format=bool(external_locations(source)),
            # A product's result stays fp32: what follows it (addition, GELU, attention) has no 8-bit form here.
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
        )
        quantised = ir.load(written)
        quantised.metadata_props.clear()
        trace.save(quantised, target, weights)
    return len(nodes)


def compare_speed(
    bundle: Bundle, graph: GraphEntry, fp32_onnx: str, backend: BackendName
) -> dict[str, float]:
    """Median milliseconds of ``graph`` (int8_ms) and of the file ``fp32_onnx`` of the bundle (fp32_ms), run in turn.

    ``backend`` is onnxruntime or openvino, on the CPU.
    """
    frames, _ = bundle.reference(graph)
    batches = [as_given(graph, frames, at) for at in in_batches(len(frames), graph.batch)]
    times: dict[str, list[float]] = {"fp32_ms": [], "int8_ms": []}
    with (
        load_backend(backend, bundle, replace(graph, onnx=fp32_onnx), "cpu", {}) as fp32,
        load_backend(backend, bundle, graph, "cpu", {}) as int8,
    ):
        for i in range(PAIRS + 1):
            for name, runs in (("fp32_ms", fp32), ("int8_ms", int8)):
                start = time.perf_counter()
                runs(batches[i % len(batches)])
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: float(np.median(values[1:])) for name, values in times.items()}  # 0 warms up


def _in_words(entry: VerificationEntry) -> str:
    """Accuracy and speed of an int8 graph with one backend in a sentence."""
    fp32_ms, int8_ms = entry.speed["fp32_ms"], entry.speed["int8_ms"]
    angle, share = entry.parity["mean_angle_deg"], entry.parity["share_within_2pct"]
    if angle is not None:
        accuracy = f"mean angle {angle:.2f} degrees"
    elif share is not None:
        accuracy = f"AbsRel {entry.parity['abs_rel']:.2%}, {share:.2%} of pixels within 2 %"
    else:
        accuracy = f"mean difference {entry.parity['mean_abs']:.2%}"
    outside = "" if entry.passed else " (OUTSIDE ITS LIMIT, accepted by you)"
    height, width = entry.frame_size
    return (
        f"int8 with {entry.backend} at {height}x{width}: {entry.output}, {accuracy}{outside}; "
        f"{int8_ms:.1f} ms where fp32 takes "
        f"{fp32_ms:.1f} ({fp32_ms / int8_ms:.2f} times as fast on the CPU of the export)"
    )


def with_speed(bundle: Bundle, manifest: Manifest, fp32: str) -> Manifest:
    """The manifest of a verified int8 bundle with its speed beside fp32; a broken limit goes where all outputs say it.

    Args:
        bundle: opened.
        manifest: of it, verified.
        fp32: folder in it of the fp32 graphs.
    """
    backends = [name for name in BACKENDS if name in {e.backend for e in manifest.verification}]
    speeds: dict[tuple[str, int, int], dict[str, float]] = {
        (backend, *graph.frame_hw): compare_speed(bundle, graph, f"{fp32}/{graph.onnx}", backend)
        for graph in manifest.graphs
        for backend in backends
    }
    entries = [
        replace(entry, speed=speeds[entry.backend, entry.frame_size[0], entry.frame_size[1]])
        for entry in manifest.verification
    ]
    checkpoint = manifest.checkpoint
    if not all(entry.passed for entry in entries):
        said = (checkpoint.note, "int8 outside its accuracy limit")
        checkpoint = replace(checkpoint, note=", ".join(note for note in said if note))
    notes = [_in_words(entry) for entry in entries]
    return replace(
        manifest,
        checkpoint=checkpoint,
        verification=entries,
        notes=[*manifest.notes, *notes],
    )
