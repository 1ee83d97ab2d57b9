"""Every backend of a CPU beside diffusers' pipeline: e2e-tiny depth, each precision that runs here, in turn in one run.

All take a uint8 frame on the host and give depth on the host. Parity is against the bundle's stored reference.

    python -m benchmarks.speed.cpu_backends [--work DIR] [--size 480x640] [--rounds 15] [--only onnxruntime openvino]

``--work`` keeps the bundles, with their plans, for another run.
"""

import argparse
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

import e2e_deploy as e2e
from benchmarks.gain import gain, in_words
from benchmarks.report import write_result
from e2e_deploy.bundle.bundle import Bundle, is_bundle, open_bundle
from e2e_deploy.errors import UnavailableError, UsageError
from e2e_deploy.frames import parse_size
from e2e_deploy.limits import LIMITS, Parity, measure_parity
from e2e_deploy.model.checkpoint import bundled_checkpoint, open_checkpoint
from e2e_deploy.names import BackendName, Precision
from e2e_deploy.nvidia.hardware import bf16_units
from e2e_deploy.runtime.checks.peer import DiffusersPeer
from e2e_deploy.runtime.checks.turns import in_turn
from e2e_deploy.runtime.checks.verify import precision_of, worst
from e2e_deploy.runtime.timing import summarise

BACKENDS: tuple[BackendName, ...] = ("onnxruntime", "openvino", "inductor", "torch")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")
BASELINE = "diffusers fp32"

PAUSE_S = 0.5
"""Before each call: another one's threads spin for a while after theirs, and would hold a core."""


def bundle_of(precision: Precision, hw: tuple[int, int], folder: Path, *, plans: bool) -> Bundle:
    """The bundle in ``folder``, exported unless it is there."""
    if is_bundle(folder):
        return open_bundle(folder)
    return e2e.export_bundle(
        open_checkpoint(bundled_checkpoint("depth")),
        folder,
        precision=precision,
        frame_sizes=[hw],
        resolution=0,
        engine="inductor" if plans and precision not in ("fp16", "int8") else "onnx",
        accept_accuracy=precision == "int8",  # the table says whether it is inside its limit
    )


def parity_of(call: Callable[[np.ndarray], np.ndarray], bundle: Bundle) -> Parity:
    """The worst over the stored frames."""
    frames, references = bundle.reference(bundle.manifest.graphs[0])
    return worst(
        [
            measure_parity("depth", call(frame), reference)
            for frame, reference in zip(frames, references["depth"], strict=True)
        ]
    )


def main() -> None:
    """Make the bundles, load what runs here, compare, time in turn, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="480x640")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--only", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--out", type=Path, help="folder of the result")
    given = parser.parse_args()
    hw = parse_size(given.size)
    calls: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
    rows: dict[str, dict[str, Any]] = {}
    not_run: dict[str, str] = {}
    with ExitStack() as opened:
        work = given.work or Path(opened.enter_context(tempfile.TemporaryDirectory()))
        bundles = {
            precision: bundle_of(precision, hw, work / precision, plans="inductor" in given.only)
            for precision in PRECISIONS
        }
        frames = list(bundles["fp32"].reference(bundles["fp32"].manifest.graphs[0])[0])
        for precision in ("fp32", "bf16") if bf16_units() else ("fp32",):
            peer = DiffusersPeer(
                open_checkpoint(bundled_checkpoint("depth")), device="cpu", precision=precision
            )
            calls[f"diffusers {precision}"] = peer
            rows[f"diffusers {precision}"] = {"device": peer.device}
        for precision, bundle in bundles.items():
            for name in given.only:
                if name == "torch" and precision != "fp32":
                    continue  # it runs the checkpoint in fp32, whatever the bundle
                try:
                    engine = e2e.load(bundle, backend=name, device="cpu")
                except (UnavailableError, UsageError) as error:
                    not_run[f"{name} {precision}"] = str(error).replace(str(work), "DIR")
                    continue
                opened.enter_context(engine)
                calls[f"{name} {precision}"] = engine
                limit = LIMITS[name, precision_of(engine.backend, bundle.manifest)]
                rows[f"{name} {precision}"] = {"device": engine.backend.device, "limit": limit}
        for name, call in calls.items():
            parity = parity_of(call, bundles["fp32"])
            limit = rows[name].pop("limit", None)
            rows[name] |= {
                "parity": vars(parity),
                "failures": parity.breaks(limit) if limit else [],
            }
        seconds = dict(
            zip(
                calls,
                in_turn(
                    list(calls.values()), frames, count=given.rounds, warm_up=2, pause_s=PAUSE_S
                ),
                strict=True,
            )
        )
    for name, took in seconds.items():
        rows[name] |= {"latency": vars(summarise(took)), "gain": gain(seconds[BASELINE], took)}
    write_result(
        "cpu_backends",
        {
            "checkpoint": "e2e-tiny-depth",
            "size": list(hw),
            "rounds": given.rounds,
            "bf16_units": bf16_units(),
            "rows": rows,
            "not_run": not_run,
        },
        given.out,
        quiet=True,
    )
    print(table({"rows": rows, "not_run": not_run}))


def table(result: dict[str, Any]) -> str:
    """The result as a table of Markdown, the fastest first."""
    lines = [
        "| what | ms, median | against diffusers fp32 | relative error | AbsRel | limit |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in sorted(result["rows"].items(), key=lambda each: each[1]["latency"]["p50_ms"]):
        parity = row["parity"]
        judged = "" if name.startswith("diffusers") else "; ".join(row["failures"]) or "inside"
        against = "" if name == BASELINE else in_words(row["gain"])
        lines.append(
            f"| {name} | {row['latency']['p50_ms']:.0f} | {against} | {parity['relative']:.1e} | "
            f"{parity['abs_rel']:.1e} | {judged} |"
        )
    lines += [
        f"| {name} | not run: {why.split(';')[0]} | | | | |"
        for name, why in result["not_run"].items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
