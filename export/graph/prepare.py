"""From the checkpoint's model to the module that is traced: specialised, accurate, in its precision."""

from collections.abc import Sequence

from torch import nn

from e2e_deploy.bundle.manifest import PassEntry
from e2e_deploy.export.graph.norms import shorten_sums
from e2e_deploy.export.graph.precision import to_precision
from e2e_deploy.export.graph.specialise import PassReport, specialise
from e2e_deploy.model.single_step import SingleStepModel


def _entry(report: PassReport) -> PassEntry:
    assert report.macs_before is not None
    assert report.macs_after is not None
    return PassEntry(
        name=report.name,
        parameters_before=report.parameters_before,
        parameters_after=report.parameters_after,
        macs_before=report.macs_before,
        macs_after=report.macs_after,
    )


def prepare(
    model: SingleStepModel,
    *,
    precision: str,
    specialised: bool,
    sizes_hw: Sequence[tuple[int, int]],
) -> tuple[nn.Module, list[PassEntry]]:
    """The module that is traced, rgb to result, and what specialisation removed. CONSUMES ``model``.

    Args:
        model: the checkpoint's model in fp32.
        precision: fp32, fp16 or bf16.
        specialised: fold what is constant at one step.
        sizes_hw: processing sizes (H, W) it will run at; multiply-adds are counted at the first.
    """
    body: nn.Module = model
    passes: list[PassEntry] = []
    if specialised:
        body, reports = specialise(model, macs_hw=sizes_hw[0], sizes_hw=sizes_hw)
        passes = [_entry(report) for report in reports]
    if precision == "fp32":
        shorten_sums(body)
    return to_precision(body, precision).eval(), passes
