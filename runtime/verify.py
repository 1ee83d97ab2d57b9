"""Parity of a backend on this machine with the reference stored in the bundle; needs no torch."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from e2e_deploy.bundle import Bundle
from e2e_deploy.limits import LIMITS, Limit, Parity, measure_parity
from e2e_deploy.runtime.engine import Engine


@dataclass(frozen=True)
class Verdict:
    """How one graph on one backend compares with its stored reference; the worst of the stored frames."""

    frame_hw: tuple[int, int]
    backend: str
    device: str
    precision: str
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


def verify_bundle(
    bundle: Bundle, backend: str = "onnxruntime", device: str = "auto"
) -> list[Verdict]:
    """Run every stored reference frame of every graph and compare.

    Args:
        bundle: an opened bundle.
        backend: a backend's name, or auto.
        device: auto, cpu or cuda.

    Raises:
        UnavailableError: the backend or device is not here.
        BundleError: the reference cannot be read, or the backend refuses the graph.
    """
    verdicts = []
    manifest = bundle.manifest
    for graph in manifest.graphs:
        frames, references = bundle.reference(graph)
        with Engine.load(
            bundle, backend=backend, device=device, frame_size=graph.frame_hw
        ) as engine:
            name = engine.backend.name
            parities = [
                measure_parity(manifest.task, engine(frame), reference)
                for frame, reference in zip(frames, references, strict=True)
            ]
            # The torch backend is the fp32 reference itself, whatever the bundle's precision.
            precision = "fp32" if name == "torch" else manifest.precision
            limit = LIMITS[name, precision]
            verdicts.append(
                Verdict(
                    graph.frame_hw, name, engine.backend.device, precision, worst(parities), limit
                )
            )
    return verdicts
