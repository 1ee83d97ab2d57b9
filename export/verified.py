"""Whether what was traced is the model: compared with the stored reference before a bundle is there."""

from dataclasses import asdict
from pathlib import Path

from torch import nn

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.bundle.manifest import VerificationEntry
from e2e_deploy.errors import ParityError, UnavailableError
from e2e_deploy.export.subject import Subject
from e2e_deploy.names import Precision
from e2e_deploy.packages import import_openvino, openvino_core
from e2e_deploy.progress import Stages
from e2e_deploy.runtime.backends.openvino.devices import CPU, precision_hint
from e2e_deploy.runtime.checks.verify import Verdict, compare

NO_CPU_KERNELS = ("bf16",)
"""Precisions ONNX Runtime cannot run on a CPU; their graph is verified as the torch module it was traced from."""


def verify_in_torch(
    body: nn.Module, subjects: list[Subject], precision: Precision, folder: Path, stages: Stages
) -> list[Verdict]:
    """Verdicts of the traced module itself; none where ONNX Runtime can judge its graph."""
    verdicts = []
    for subject in subjects if precision in NO_CPU_KERNELS else ():
        with stages(f"verify {subject.label} (torch, {precision})"):
            verdicts += subject.verify_module(body, precision, folder)
    return verdicts


def verify_in_onnxruntime(folder: Path, stages: Stages) -> list[Verdict]:
    """Verdicts of the graphs of the bundle in ``folder``, with its manifest but for them."""
    with stages("verify with ONNX Runtime (CPU)"):
        return compare(open_bundle(folder), "onnxruntime", "cpu")


def verify_in_openvino(folder: Path, stages: Stages) -> tuple[list[Verdict], list[str]]:
    """Verdicts of the graphs of an int8 bundle with OpenVINO, whose kernels are others than ONNX Runtime's.

    Where it cannot run them here, none, and a sentence that says why.
    """
    bundle = open_bundle(folder)
    try:
        import_openvino()
        precision_hint(openvino_core(), CPU, bundle.manifest.precision)
        with stages("verify with OpenVINO (CPU)"):
            return compare(bundle, "openvino", "cpu"), []
    except UnavailableError as error:
        return [], [f"int8 was not judged with openvino: {error}"]


def judged(verdicts: list[Verdict], *, accepted: bool) -> list[VerificationEntry]:
    """The verdicts for the manifest; one outside its limit ends the export unless that is ``accepted``.

    A result that holds NaN is no accuracy, and never accepted.
    """
    several = len({verdict.output for verdict in verdicts}) > 1
    for verdict in verdicts:
        excusable = verdict.precision == "int8" and verdict.parity.finite
        if verdict.failures and not (accepted and excusable):
            height, width = verdict.frame_hw
            way_out = "; `accept_accuracy=True` writes it all the same" if excusable else ""
            of = f"{verdict.output} of " if several else ""
            raise ParityError(
                f"{of}{verdict.backend} {verdict.precision} at {height}x{width} is outside its limit: "
                f"{'; '.join(verdict.failures)}; no bundle was written{way_out}"
            )
    return [
        VerificationEntry(
            frame_size=list(verdict.frame_hw),
            output=verdict.output,
            backend=verdict.backend,
            precision=verdict.precision,
            parity=asdict(verdict.parity),
            passed=not verdict.failures,
        )
        for verdict in verdicts
    ]
