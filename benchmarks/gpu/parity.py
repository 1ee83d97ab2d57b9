"""Parity on the device: every backend and precision that runs here against fp32 PyTorch on the CPU, on real pictures.

The trained e2e-tiny, depth and normals, as modules and as bundles; a full-size depth model with random weights as a
module. Limits are those of e2e_deploy.limits, which the tests and ``verify`` read too; for random weights those below.
"""

import copy
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.contenders.models import make_model
from benchmarks.gpu.contenders.of_bundles import make_bundle, require_backend, with_plan
from benchmarks.gpu.timing import Device, exact_and_tuned, in_words
from e2e_deploy.assets.pictures import reference_frames
from e2e_deploy.errors import UnavailableError
from e2e_deploy.export.graph.precision import to_precision
from e2e_deploy.export.graph.specialise import specialise
from e2e_deploy.frames import plan_frame
from e2e_deploy.limits import LIMITS, Limit, Parity, measure_parity
from e2e_deploy.model.checkpoint import bundled_checkpoint, open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.model.single_step import FrameModel, SingleStepModel
from e2e_deploy.names import BACKENDS, BackendName, Precision
from e2e_deploy.runtime.checks.verify import compare, worst

Row = dict[str, Any]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16")
TASKS = ("depth", "normals")
TINY_HW, FULL_HW, SMALL_HW = (256, 320), (576, 768), (64, 96)


RANDOM_WEIGHTS = LIMITS | {
    ("torch", "fp16"): Limit(relative=1.3 * 2.17e-3, abs_rel=1.3 * 1.03e-3),
    ("torch", "bf16"): Limit(relative=1.3 * 1.62e-2, abs_rel=1.3 * 7.8e-3),
}
"""What rounding alone makes of SD2's size with random weights at 576x768, computed operator by operator on a CPU
(``benchmarks.accuracy.half_precision``), and a third more for another order of sums.

The limits of ``verify`` are for networks that predict depth. Random weights answer noise of half a grey level in fp32
fifteen to twenty times as strongly as a trained network, and rounding likewise; that noise alone leaves fp32 99.1 %
of pixels within 2 % (192x256). What is to be shown of a device is that it rounds where it must and nowhere else."""


def facts_of(parity: Parity) -> Row:
    """A parity for a JSON file, which knows no infinity: equal results have no PSNR."""
    return asdict(parity) | ({"psnr_db": None} if parity.psnr_db == float("inf") else {})


def judged(parity: Parity, limit: Limit) -> Row:
    """What a result file says of one parity."""
    said = parity.breaks(limit)
    return {"parity": facts_of(parity), "passed": not said, "outside": said}


def attempted(facts: Row, measure: Callable[[], Row]) -> Row:
    """The facts with what was measured, or with why it was not."""
    try:
        return facts | measure()
    except (UnavailableError, ImportError) as error:
        return facts | {"not_run": str(error)}
    except Exception as error:  # of any library; the others go on
        return facts | {"error": in_words(error)}


@torch.no_grad()
@exact_and_tuned()
def module_rows(
    name: str,
    make: Callable[[str], SingleStepModel],
    device: Device,
    frame_hw: tuple[int, int],
    limits: dict[tuple[str, str], Limit] = LIMITS,
) -> list[Row]:
    """A model in torch on the device, plain and specialised, in each precision, as an export would trace it.

    Args:
        name: of the model, for the result.
        make: the fp32 model on the device it is given, the same every time.
        device: where the rows are computed; the reference comes from the CPU.
        frame_hw: of the pictures, which the network sees as they are.
        limits: that decide.
    """
    pictures = torch.from_numpy(reference_frames(frame_hw, 1 if "random" in name else 2))

    def results(body: Any, model_facts: SingleStepModel, where: str) -> list[Any]:
        plan = plan_frame(frame_hw, 0, model_facts.network_stride)
        whole = FrameModel(body, plan, [kind.name for kind in model_facts.kinds]).eval().to(where)
        return [whole(picture[None].to(where))[0].float().cpu().numpy() for picture in pictures]

    model = make("cpu")
    references = results(model, model, "cpu")
    task, kind = model.task, model.kinds[0].name
    del model

    def measure(precision: str, specialised: bool) -> Row:
        fresh = make(device.name)
        body = to_precision(
            specialise(fresh)[0] if specialised else fresh, precision, fused_attention=True
        )
        parities = [
            measure_parity(kind, result, reference)
            for result, reference in zip(results(body, fresh, device.name), references, strict=True)
        ]
        return judged(worst(parities), limits["torch", precision])

    rows = []
    for specialised in (False, True):
        for precision in PRECISIONS:
            facts: Row = {"model": name, "task": task, "backend": "torch"}
            facts |= {"precision": precision, "specialised": specialised}
            facts |= {"frame_size": list(frame_hw)}
            rows.append(attempted(facts, partial(measure, precision, specialised)))
            device.reserved()
    return rows


def bundle_rows(
    device: Device, task: str, precision: Precision, frame_hw: tuple[int, int], work: Path
) -> list[Row]:
    """Each backend on e2e-tiny's bundle, against the reference that the bundle carries; as ``verify`` runs them."""
    facts: Row = {"model": "bundle of e2e-tiny", "task": task, "precision": precision}
    facts |= {"frame_size": list(frame_hw), "specialised": True}

    def measure(backend: BackendName) -> Row:
        require_backend(backend, device.name)
        bundle = make_bundle(work, frame_hw, precision=precision, small=True, task=task)
        bundle = with_plan(bundle, backend, device.name)
        verdict = compare(bundle, backend, device.name)[0]
        return {"on": verdict.device, **judged(verdict.parity, verdict.limit)}

    rows = []
    for backend in BACKENDS:
        if backend == "torch" and precision != "fp32":
            continue  # of a bundle it is the fp32 reference whatever the precision; the modules are above
        rows.append(attempted(facts | {"backend": backend}, partial(measure, backend)))
    return rows


def tiny_model(task: str, where: str) -> SingleStepModel:
    """The trained e2e-tiny in fp32."""
    return load_model(open_checkpoint(bundled_checkpoint(task))).to(where)


def run_parity(device: Device, work: Path, *, small: bool, say: Callable[[str], None]) -> Row:
    """All rows. ``small`` leaves out the full size and all bundles but one."""
    frame_hw = SMALL_HW if small else TINY_HW
    rows = []
    for task in TASKS:
        say(f"e2e-tiny {task} in torch")
        rows += module_rows("e2e-tiny, trained", partial(tiny_model, task), device, frame_hw)
    for task in TASKS[:1] if small else TASKS:
        for precision in PRECISIONS[:1] if small else PRECISIONS:
            say(f"e2e-tiny {task} {precision} bundle")
            rows += bundle_rows(device, task, precision, frame_hw, work)
    if not small:
        say("full size in torch")  # drawn once on the CPU: the device gets the same weights
        name = "SD2 size, random weights"
        drawn = make_model("cpu", small=False)
        rows += module_rows(
            name, lambda where: copy.deepcopy(drawn).to(where), device, FULL_HW, RANDOM_WEIGHTS
        )
    judged_rows = [row for row in rows if "passed" in row]
    return {
        "reference": "PyTorch fp32 on the CPU; a bundle's is stored in it",
        "rows": rows,
        "measured": len(judged_rows),
        "passed": sum(row["passed"] for row in judged_rows),
        "worst_relative_fp32": max(
            (row["parity"]["relative"] for row in judged_rows if row["precision"] == "fp32"),
            default=float(np.nan),
        ),
    }
