"""The tables of docs/performance.md from the JSON files of acceptance.py. What no GPU measured says so.

Results of --small and of a CPU are trials of the script, never numbers.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Result = dict[str, Any]
NOT_MEASURED = "Not measured."
PREFIX = "gpu_"


def on_gpu(folder: Path, pattern: str) -> list[Result]:
    """The results that a GPU gave at full size, by name of their files."""
    found = []
    for path in sorted(folder.glob(f"{PREFIX}{pattern}.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["device"]["type"] == "cuda" and not result["small"]:
            found.append(result)
    return found


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def where(result: Result) -> str:
    """Device, driver, versions, commit and command of a result, and what is by hand."""
    device, versions = result["device"], result["versions"]
    packages = ", ".join(f"{n} {versions[n]}" for n in ("torch", "diffusers") if n in versions)
    by_hand = f"; added by hand: {result['added_by_hand']}" if "added_by_hand" in result else ""
    return (
        f"{device['name']}, driver {device.get('driver_version', 'unknown')}, CUDA {device['cuda']}, {packages}, "
        f"commit {result['commit']}, {result['date'][:10]}: `{result['command']}`{by_hand}"
    )


def reasons(rows: dict[str, Result]) -> list[str]:
    """One line for everything that was not measured, with the reason."""
    missing = {name: row.get("not_run") or row.get("error") for name, row in rows.items()}
    said = [f"{name} ({why})" for name, why in missing.items() if why]
    return ["", f"Not measured here: {'; '.join(said)}."] if said else []


def broken(result: Result) -> list[str]:
    """The error of a part that broke, as lines."""
    return [f"The part broke: {result['error']}", "", where(result)] if "error" in result else []


def joined(blocks: Sequence[list[str]]) -> str:
    """Some results below each other; without any, that nothing was measured."""
    return "\n\n".join("\n".join(lines) for lines in blocks) or NOT_MEASURED


def percent(share: float) -> str:
    """A share as whole per cent."""
    return f"{100 * share:.0f} %"


def device(folder: Path) -> str:
    """What the GPU does at best, and how its tests went."""
    blocks = []
    for result in on_gpu(folder, "report"):
        if lines := broken(result):
            blocks.append(lines)
            continue
        rates = result["matrix_tflops"].items()
        moved = result["transfer_gb_s"]
        rows = [[f"matrix product, {name}", f"{rate:.0f} TFLOP/s"] for name, rate in rates]
        rows += [["copy on the device, read and written", f"{result['copy_gb_s']:.0f} GB/s"]]
        rows += [[way.replace("_", " "), f"{rate:.1f} GB/s"] for way, rate in moved.items()]
        blocks.append([*table(["limit", "measured"], rows), "", where(result)])
    for result in on_gpu(folder, "tests"):
        if lines := broken(result):
            blocks.append(lines)
            continue
        counts = [len(result[kind]) for kind in ("passed", "failed", "not_run")]
        line = "Tests marked `gpu`: {} passed, {} failed, {} not run.".format(*counts)
        blocks.append([line, "", where(result)])
    return joined(blocks)


def _contender(name: str, row: Result) -> list[str]:
    latency, split = row["latency"], row.get("split_ms")
    faster, memory = row.get("times_as_fast_as_diffusers"), row.get("weights_gib", 0.0)
    return [
        name.replace("_", " "),
        f"{latency['p50_ms']:.2f} ({latency['p99_ms']:.2f})",
        "" if faster is None else f"{faster:.2f}x",
        percent(row["share_of_roofline"]),
        percent(row["share_of_matrix_rate"]),
        " / ".join(f"{ms:.2f}" for ms in split.values()) if split else "",
        f"{memory + row.get('activations_gib', 0.0):.1f}" if memory else "",
        f"{row['parity']['abs_rel']:.1e}" if row["parity"]["abs_rel"] is not None else "NaN",
    ]


def speed(folder: Path) -> str:
    """A table for every size and batch."""
    head = ["contender", "ms, median (p99)", "diffusers eager / it", "of its roofline"]
    head += ["of the matrix rate", "encoder / UNet / decoder, ms", "GiB", "AbsRel to fp32"]
    blocks = []
    for result in on_gpu(folder, "speed_*"):
        if lines := broken(result):
            blocks.append(lines)
            continue
        rows = result["contenders"]
        measured = {name: row for name, row in rows.items() if "latency" in row}
        order = sorted(measured, key=lambda name: measured[name]["latency"]["p50_ms"])
        height, width = result["frame_size"]
        work, roof = result["work"]["plain"]["all"], result["roof"]
        blocks.append(
            [
                f"**{height}x{width}, batch {result['batch']}, {result['precision']}**: the plain model is "
                f"{work['tflop']:.2f} TFLOP, {work['arithmetic_ms']:.2f} ms of pure arithmetic at the measured "
                f"{roof['matrix_tflops']:.0f} TFLOP/s, and {work['floor_ms']:.2f} ms by the roofline (copy "
                f"{roof['copy_gb_s']:.0f} GB/s). Medians of {result['rounds']} calls in turn.",
                "",
                *table(head, [_contender(name, measured[name]) for name in order]),
                *reasons(rows),
                "",
                where(result),
            ]
        )
    return joined(blocks)


def parity(folder: Path) -> str:
    """Every backend and precision against fp32 PyTorch on the CPU."""
    head = ["model", "task", "backend", "precision", "form", "relative", "AbsRel or angle", "limit"]
    blocks = []
    for result in on_gpu(folder, "parity"):
        if lines := broken(result):
            blocks.append(lines)
            continue
        rows = []
        for row in result["rows"]:
            facts = [row["model"], row["task"], row["backend"], row["precision"]]
            facts.append("specialised" if row["specialised"] else "plain")
            if "parity" not in row:
                rows.append([*facts, "", "", row.get("not_run") or row["error"]])
                continue
            found = row["parity"]
            angle = found["mean_angle_deg"]
            error = "NaN" if found["abs_rel"] is None else f"{found['abs_rel']:.1e}"
            shown = error if angle is None else f"{angle:.3f} degrees"
            verdict = "inside" if row["passed"] else "; ".join(row["outside"])
            rows.append([*facts, f"{found['relative']:.1e}", shown, verdict])
        line = f"{result['passed']} of {result['measured']} inside their limits."
        blocks.append([*table(head, rows), "", line, "", where(result)])
    return joined(blocks)


def loop(folder: Path) -> str:
    """The run loop on a file."""
    head = ["engine", "model", "frames/s", "engine, ms (p99)", "age, ms (p99)", "device idle"]
    head += ["GPU memory grown, MiB"]
    blocks = []
    for result in on_gpu(folder, "loop"):
        if lines := broken(result):
            blocks.append(lines)
            continue
        rows, engines = [], result["engines"]
        for name, row in engines.items():
            if "stages" not in row:
                continue
            ran, age = row["stages"]["engine"], row["stages"]["age"]
            idle = row.get("device_idle_share")
            rows.append(
                [
                    name.replace("_", " "),
                    row["model"],
                    f"{row['frames_per_second']:.1f}",
                    f"{ran['p50_ms']:.1f} ({ran['p99_ms']:.1f})",
                    f"{age['p50_ms']:.1f} ({age['p99_ms']:.1f})",
                    "" if idle is None else percent(idle),
                    f"{row['grown_after_warm_up'].get('gpu_reserved_mib', 0.0):.1f}",
                ]
            )
        height, width = result["frame_size"]
        title = f"{height}x{width}, {result['clip_frames']} frames."
        blocks.append([title, "", *table(head, rows), *reasons(engines), "", where(result)])
    return joined(blocks)


def training(folder: Path) -> str:
    """Optimizer steps."""
    blocks = []
    for result in on_gpu(folder, "training"):
        if lines := broken(result):
            blocks.append(lines)
            continue
        rows = [
            [name, f"{row['images_per_second']:.2f}", f"{row['peak_gib']:.1f}"]
            for name, row in result["precisions"].items()
            if "images_per_second" in row
        ]
        height, width = result["size_hw"]
        title = f"{height}x{width}, batch {result['batch']} x {result['effective_batch']}, {result['trained']}."
        lines = table(["precision", "images/s", "peak, GiB"], rows)
        blocks.append([title, "", *lines, *reasons(result["precisions"]), "", where(result)])
    return joined(blocks)


BLOCKS = {
    "gpu-device": device,
    "gpu-speed": speed,
    "gpu-parity": parity,
    "gpu-loop": loop,
    "gpu-training": training,
}
"""Marker in docs/performance.md: what writes between its two halves from a folder of results."""
