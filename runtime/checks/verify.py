"""Parity of a backend on this machine with the reference stored in the bundle; needs no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle.bundle import Bundle
from e2e_deploy.bundle.manifest import GraphEntry
from e2e_deploy.errors import UsageError
from e2e_deploy.limits import LIMITS, Limit, Parity, measure_parity
from e2e_deploy.names import Precision
from e2e_deploy.runtime.backends.backend import Backend
from e2e_deploy.runtime.backends.onnxruntime import OrtBackend
from e2e_deploy.runtime.engine import load
from e2e_deploy.system.interrupts import interruptible


@dataclass(frozen=True)
class Verdict:
    """How one graph on one backend compares with its stored reference; the worst of the stored frames."""

    frame_hw: tuple[int, int]
    backend: str
    device: str
    precision: Precision
    parity: Parity
    limit: Limit

    @property
    def failures(self) -> list[str]:
        """What is outside its limit, in words; empty when the verdict is good."""
        return self.parity.breaks(self.limit)


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
    )


def as_map(graph: GraphEntry, result: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A result of ``graph`` as depth [H, W] or normals [H, W, 3]; a core graph gives [1, H, W] or [3, H, W]."""
    if graph.kind == "frame":
        return result
    return result[0] if len(result) == 1 else np.moveaxis(result, 0, -1)


def open_backend(bundle: Bundle, graph: GraphEntry, backend: str, device: str) -> Backend:
    """What runs ``graph``; a core graph, which no engine takes, is for ONNX Runtime alone.

    Raises:
        UsageError: another backend for a core graph.
        UnavailableError: the backend or device is not here.
        BundleError: the backend refuses the graph.
    """
    if graph.kind == "frame":
        return load(bundle, backend=backend, device=device, frame_size=graph.frame_hw).backend
    if backend not in ("auto", "onnxruntime"):
        raise UsageError(f"a core graph is verified with onnxruntime only, not with {backend}")
    return OrtBackend(bundle, graph, device)


Watch = Callable[
    [GraphEntry, str, npt.NDArray[Any], npt.NDArray[np.float32], npt.NDArray[np.float32]], None
]
"""(graph, backend's name, input, its result, its reference), the last two as maps."""


def verify_bundle(
    bundle: Bundle,
    backend: str = "onnxruntime",
    device: str = "auto",
    watch: Watch | None = None,
) -> list[Verdict]:
    """Run every stored reference input of every graph and compare. Ctrl-C ends also what takes for ever.

    Args:
        bundle: an opened bundle.
        backend: a backend's name, or auto.
        device: auto, cpu or cuda.
        watch: shown every result.

    Raises:
        UnavailableError: the backend or device is not here.
        UsageError: an unknown backend, or one that takes no core graph.
        BundleError: the reference cannot be read, or the backend refuses the graph.
    """
    return interruptible(lambda: _verify(bundle, backend, device, watch))


def _verify(bundle: Bundle, backend: str, device: str, watch: Watch | None) -> list[Verdict]:
    verdicts = []
    manifest = bundle.manifest
    for graph in manifest.graphs:
        frames, references = bundle.reference(graph)
        with open_backend(bundle, graph, backend, device) as opened:
            name = opened.name
            parities = []
            for frame, reference in zip(frames, references, strict=True):
                pair = as_map(graph, opened(frame)), as_map(graph, reference)
                parities.append(measure_parity(manifest.task, *pair))
                if watch is not None:
                    watch(graph, name, frame, *pair)
            # The torch backend is the fp32 reference itself, whatever the bundle's precision.
            precision = "fp32" if name == "torch" else manifest.precision
            limit = LIMITS[name, precision]
            verdicts.append(
                Verdict(graph.frame_hw, name, opened.device, precision, worst(parities), limit)
            )
    return verdicts
