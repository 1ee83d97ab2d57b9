"""Parity of a backend on this machine with the reference stored in the bundle; needs no torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle.bundle import Bundle, open_bundle
from e2e_deploy.bundle.manifest import GraphEntry, Manifest
from e2e_deploy.bundle.reference import in_batches
from e2e_deploy.errors import BundleError, InputError, UnavailableError, UsageError
from e2e_deploy.kinds import KINDS
from e2e_deploy.limits import LIMITS, Limit, Parity, measure_parity
from e2e_deploy.names import (
    BACKEND_CHOICES,
    BACKENDS,
    PLAN_TITLES,
    BackendChoice,
    BackendName,
    Precision,
    ResultKind,
)
from e2e_deploy.runtime.backends import load_backend
from e2e_deploy.runtime.backends.backend import Backend
from e2e_deploy.runtime.backends.device import parse_device, require_reach
from e2e_deploy.runtime.backends.layout import Layout
from e2e_deploy.runtime.backends.onnxruntime.backend import OrtBackend
from e2e_deploy.runtime.engine import load
from e2e_deploy.system.interrupts import interruptible


@dataclass(frozen=True)
class Verdict:
    """How one output of a graph on one backend compares with its stored reference; the worst of the stored frames."""

    frame_hw: tuple[int, int]
    output: str
    backend: str
    device: str
    precision: Precision
    parity: Parity
    limit: Limit

    @property
    def failures(self) -> list[str]:
        """What is outside its limit, in words; empty when the verdict is good."""
        return self.parity.breaks(self.limit)


@dataclass(frozen=True)
class NotCompared:
    """A backend that nobody named and that could not be compared here."""

    backend: BackendName
    reason: str


@dataclass(frozen=True)
class Verification:
    """What ``verify_bundle`` found."""

    verdicts: list[Verdict]
    not_compared: list[NotCompared]

    @property
    def failures(self) -> list[str]:
        """What is outside its limit, a sentence a backend, size and output; empty when everything is good."""
        several = len({v.output for v in self.verdicts}) > 1
        return [
            f"{v.backend} {v.precision}{' ' + v.output if several else ''}: {'; '.join(v.failures)}"
            for v in self.verdicts
            if v.failures
        ]


def worst(parities: list[Parity]) -> Parity:
    """The largest distance in each quantity over several frames."""

    def over(name: str, pick: Callable[[list[float]], float]) -> float | None:
        values = [getattr(p, name) for p in parities if getattr(p, name) is not None]
        return pick(values) if values else None

    return Parity(
        max_abs=float(np.max([p.max_abs for p in parities])),  # np.max keeps NaN, max does not
        relative=float(np.max([p.relative for p in parities])),
        abs_rel=over("abs_rel", max),
        share_within_2pct=over("share_within_2pct", min),
        mean_angle_deg=over("mean_angle_deg", max),
        psnr_db=float(np.min([p.psnr_db for p in parities])),
        finite=all(p.finite for p in parities),
        mean_abs=over("mean_abs", max),
    )


def precision_of(backend: Backend, manifest: Manifest) -> Precision:
    """What a backend computes in: the torch backend is the fp32 reference itself, whatever the bundle's precision."""
    return "fp32" if backend.name == "torch" else manifest.precision


def as_map(graph: GraphEntry, result: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A result of ``graph`` as depth [H, W] or normals [H, W, 3]; a core graph gives [1, H, W] or [3, H, W]."""
    if graph.kind == "frame":
        return result
    return result[0] if len(result) == 1 else np.moveaxis(result, 0, -1)


def as_given(
    graph: GraphEntry, inputs: npt.NDArray[Any], indices: Sequence[int]
) -> npt.NDArray[Any]:
    """What a backend is called with for these ``indices`` of ``inputs``: a batch, or one without its batch axis."""
    return inputs[list(indices)] if graph.batch > 1 else inputs[indices[0]]


Watch = Callable[
    [
        GraphEntry,
        str,
        ResultKind,
        npt.NDArray[Any],
        npt.NDArray[np.float32],
        npt.NDArray[np.float32],
    ],
    None,
]
"""(graph, backend's name, kind of result, input, its result, its reference), the last two as maps."""


def verify_bundle(
    bundle: str | Path | Bundle,
    backend: BackendChoice = "auto",
    device: str = "auto",
    *,
    checkpoint: str | Path | None = None,
    watch: Watch | None = None,
) -> Verification:
    """Run every stored reference input of every graph on the backends here and compare.

    Ctrl-C ends also what takes for ever.

    Args:
        bundle: its folder, or an opened bundle.
        backend: its name; with auto every backend that can run here.
        device: as of ``load``.
        checkpoint: what the bundle was exported from, for PyTorch, which then must run; None: what the manifest
            names, if that is a folder here.
        watch: shown every result.

    Returns:
        A verdict a graph, output and backend, each with its failures, and which backends were not compared and why.

    Raises:
        BundleError: no bundle, damaged, a plan in it too, the reference cannot be read, or a backend refuses the graph.
        CheckpointError: ``checkpoint`` is none, or not the bundle's.
        UnavailableError: a named backend or device is not here; with auto, ONNX Runtime's, or of bf16 every one.
        UsageError: an unknown backend, one that takes no core graph, or a checkpoint that nothing opens.
    """
    if backend not in BACKEND_CHOICES:
        raise UsageError(
            f"unknown backend {backend!r}; the backends are {', '.join(BACKEND_CHOICES)}"
        )
    if checkpoint is not None and backend not in ("auto", "torch"):
        raise UsageError(
            f'`checkpoint` is what PyTorch opens, and `backend="{backend}"` does not run in PyTorch'
        )
    opened = open_bundle(bundle)
    if checkpoint is not None:
        opened = replace(opened, checkpoint=str(checkpoint))
    verdicts: list[Verdict] = []
    left_out: list[NotCompared] = []
    for name in BACKENDS if backend == "auto" else (backend,):
        try:
            verdicts += compare(opened, name, device, watch)
        except (UnavailableError, InputError, UsageError) as error:
            # Only a backend nobody named may be missing: torch on a robot, a checkpoint that stayed elsewhere, or
            # TensorRT where the CPU was asked for. Not one whose plan is damaged or could be anybody's, not torch where
            # a checkpoint is named, and not ONNX Runtime, which came with us, unless the bundle is in a precision
            # that it has not on a CPU.
            is_asked_for = backend != "auto" or (name == "torch" and checkpoint is not None)
            is_bad_plan = name in PLAN_TITLES and isinstance(error, BundleError)
            is_ours = name == "onnxruntime" and opened.manifest.precision != "bf16"
            if is_asked_for or is_bad_plan or is_ours:
                raise
            left_out.append(NotCompared(name, str(error)))
    # PyTorch runs the checkpoint and not the bundle.
    if backend == "auto" and not {verdict.backend for verdict in verdicts} - {"torch"}:
        reasons = {each.backend: each.reason for each in left_out}
        raise UnavailableError(
            f"nothing here runs this {opened.manifest.precision} bundle: on a CPU that is openvino's, and "
            f"{reasons.get('openvino')}"
        )
    return Verification(verdicts, left_out)


def compare(
    bundle: Bundle, backend: BackendName, device: str = "auto", watch: Watch | None = None
) -> list[Verdict]:
    """Every stored reference input of every graph on one backend; arguments and errors as of ``verify_bundle``."""
    return interruptible(
        lambda: [
            verdict
            for graph in bundle.manifest.graphs
            for verdict in _compare(bundle, graph, backend, device, watch)
        ]
    )


def _compare(
    bundle: Bundle, graph: GraphEntry, backend: BackendName, device: str, watch: Watch | None
) -> list[Verdict]:
    manifest = bundle.manifest
    inputs, references = bundle.reference(graph)
    layout = Layout.of(graph, manifest.kinds)
    parities: dict[ResultKind, list[Parity]] = {kind: [] for kind in manifest.outputs}
    with _open_backend(bundle, graph, backend, device) as opened:
        for indices in in_batches(len(inputs), graph.batch):
            given = as_given(graph, inputs, indices)
            results = layout.apart(opened(given), given.ndim)
            for kind in manifest.outputs:
                name = KINDS[kind].output
                each = results[name] if graph.batch > 1 else results[name][None]
                for index, result in zip(indices, each, strict=True):
                    pair = as_map(graph, result), as_map(graph, references[name][index])
                    parities[kind].append(measure_parity(kind, *pair))
                    if watch is not None:
                        watch(graph, opened.name, kind, inputs[index], *pair)
        precision = precision_of(opened, manifest)
        return verdicts_of(graph, opened.name, opened.device, precision, parities)


def verdicts_of(
    graph: GraphEntry,
    backend: str,
    device: str,
    precision: Precision,
    parities: Mapping[ResultKind, list[Parity]],
) -> list[Verdict]:
    """A verdict an output of ``graph``, from the parities of its frames."""
    limit = LIMITS[backend, precision]
    return [
        Verdict(graph.frame_hw, KINDS[kind].output, backend, device, precision, worst(each), limit)
        for kind, each in parities.items()
    ]


def _open_backend(bundle: Bundle, graph: GraphEntry, backend: BackendName, device: str) -> Backend:
    """What runs ``graph``; a core graph, which no engine takes, is for what runs the ONNX file itself."""
    if graph.kind == "frame":
        return load(bundle, backend=backend, device=device, frame_size=graph.frame_hw).backend
    if backend not in ("onnxruntime", "openvino"):
        raise UsageError(
            f"a core graph is verified with onnxruntime or openvino, not with {backend}"
        )
    require_reach(parse_device(device), backend)
    if backend == "openvino":
        return load_backend(backend, bundle, graph, device, {})
    return OrtBackend(bundle, graph, device)  # not the GPU's pipeline, which is made for frames
