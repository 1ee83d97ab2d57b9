"""Writes the numbers of the README and of pages in docs/ from the JSON files in results/, between markers.

python -m benchmarks.readme [--check]
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import planning
from benchmarks.gain import in_words
from benchmarks.gpu import tables as gpu_tables
from benchmarks.gpu.profiling import tables as profiling_tables
from benchmarks.growth import bulk as growth
from benchmarks.speed import cpu_backends as cpu

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def load(name: str) -> dict[str, Any] | None:
    """A result file, or None when it was not measured, or from files that no commit holds."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        return None
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return None if result["commit"].endswith("-dirty") else result


MOVED = {
    "benchmarks/build_engines.py": "benchmarks.export.build_plans",
    "benchmarks/export_full_size.py": "benchmarks.export.full_size_model",
    "benchmarks/specialise.py": "benchmarks.export.specialise",
}
"""Where the scripts of older results are now: who reads a number wants to run what measures it."""


def where(result: dict[str, Any]) -> str:
    """Hardware and script of a result, in words."""
    machine = result["machine"]
    words = result["command"].split()
    script = words[2] if words[1] == "-m" else MOVED.get(words[1], words[1])
    return f"{machine['cpu']}, {machine['cores']} cores; `{script}`, {result['date'][:10]}"


LOOPS = {
    "bare": "the engine alone",
    "plain": "a plain OpenCV loop",
    "diffusers": "diffusers' pipeline",
}


def turbo_rows() -> list[str]:
    """A small VAE in the place of the large one: the bundled model, and operations at full size."""
    lines = []
    if r := load("e2e_tiny_turbo"):
        ms = {name: each["p50_ms"] for name, each in r["latency"].items()}
        abs_rel = {name: each["abs_rel"] for name, each in r["scores"].items()}
        height, width = r["frame_size"]
        lines.append(
            f"| e2e-tiny-turbo, e2e-tiny's depth with a small VAE, {height}x{width}, one frame, CPU, fp32 | "
            f"{ms['turbo']:.0f} ms, e2e-tiny {ms['teacher']:.0f} ms: {in_words(r['gain'], 1)}, in turn; AbsRel "
            f"{abs_rel['turbo']:.3f} and {abs_rel['teacher']:.3f} on {r['held_out_images']} held-out scenes "
            f"| {where(r)} |"
        )
    if r := load("turbo_full_size"):
        fewer, (height, width) = r["times_fewer_macs"], r["picture_hw"]
        tflop = {
            name: f"{each['floors']['H200, measured']['tflop']:.1f}"
            for name, each in r["counts"].items()
        }
        thin = "turbo, UNet with fewer layers"
        lines.append(
            f"| operations of SD2 depth, {height}x{width}, specialised, counted | {tflop['large']} TFLOP; with a small "
            f"VAE {tflop['turbo']} (**{fewer['turbo']:.1f}x** fewer), with one layer a level in its UNet, too, "
            f"{tflop[thin]} (**{fewer[thin]:.1f}x**) | {where(r)} |"
        )
        if cpu_run := r.get("cpu"):
            (height, width), latency = cpu_run["processing_size"], cpu_run["latency"]
            s = {name: each["p50_ms"] / 1e3 for name, each in latency.items()}
            faster, gib = in_words(cpu_run["gains"]["turbo"], 1), cpu_run["peak_gib"]
            lines.append(
                f"| SD2 depth with a small VAE, {height}x{width}, one frame, CPU, fp32, random weights | "
                f"{s['turbo']:.1f} s, with its own VAE {s['large VAE']:.1f} s: {faster}, medians of "
                f"{latency['turbo']['count']}, in turn; peak memory {gib['turbo']:.1f} and {gib['large VAE']:.1f} GiB "
                f"| {where(r)} |"
            )
    if r := load("turbo_full_size_plans"):
        small, large = (
            f"{each['onnx_bytes'] / 1e9:.2f} and {plan['bytes'] / 1e9:.2f} GB, built in {plan['build_seconds']:.0f} s"
            for each in (r["fp16"]["turbo"], r["fp16"]["large VAE"])
            for plan in each["plans"]
        )
        lines.append(
            "| graph and TensorRT-RTX plan of SD2 depth with a small VAE, fp16, sm89; built without a GPU, not run | "
            f"{small}; with its own VAE {large} | {where(r)} |"
        )
    return lines


def numbers() -> str:
    """The table of measurements."""
    lines = ["| what | result | measured on |", "|---|---|---|"]
    if (r := load("cpu_vs_diffusers")) and "gain" in r:
        ours, theirs = r["ours"]["p50_ms"], r["diffusers"]["p50_ms"]
        lines.append(
            f"| e2e-tiny depth, {r['size'][0]}x{r['size'][1]}, one frame, CPU | {ours:.0f} ms; diffusers' Marigold "
            f"pipeline at one step {theirs:.0f} ms: {in_words(r['gain'], 1)}, medians of {r['rounds']}, in "
            f"turn | {where(r)} |"
        )
    lines += turbo_rows()
    if r := load("cpu_backends"):
        best = {
            precision: min(
                (row["latency"]["p50_ms"], name, row["gain"])
                for name, row in r["rows"].items()
                if name.endswith(precision) and not name.startswith("diffusers")
            )
            for precision in ("fp32", "bf16")
            if f"openvino {precision}" in r["rows"]
        }
        each = (f"{name} {ms:.0f} ms ({in_words(g, 1)})" for ms, name, g in best.values())
        lines.append(
            f"| e2e-tiny depth, {r['size'][0]}x{r['size'][1]}, one frame, CPU: the fastest backends against diffusers "
            f"in fp32, {r['rows'][cpu.BASELINE]['latency']['p50_ms']:.0f} ms | {', '.join(each)}; medians of "
            f"{r['rounds']}, in turn; [all of them](docs/performance.md#on-a-cpu) | {where(r)} |"
        )
    for precision in ("fp32", "fp16"):
        if r := load(f"export_full_size_{precision}"):
            height, width = r["processing_size"]
            lines.append(
                f"| export of an SD2-size model (950 M parameters, random weights), {precision}, {height}x{width} | "
                f"{r['seconds']:.0f} s, peak memory {r['peak_gib']:.1f} GiB | {where(r)} |"
            )
    if r := load("specialise"):
        full = r["full_size"]
        gone = full["two_tokens_summary"]
        plain, upsampled = gone["without_upsampling"], gone["with_upsampling"]
        height, width = full["picture_hw"]
        lines.append(
            f"| exact specialisation of SD2 depth, {height}x{width} | "
            f"{plain['parameters_gone'] / 1e6:.1f} M parameters and {plain['macs_gone_percent']:.1f} % of "
            f"multiply-adds gone; with the upsampling pass {upsampled['parameters_gone'] / 1e6:.1f} M "
            f"and {upsampled['macs_gone_percent']:.1f} % | {where(r)} |"
        )
    for name, what in (("e2e_tiny", "e2e-tiny"), ("full_size", "SD2 size")):
        if (r := load(f"specialised_speed_{name}")) and "gains" in r:
            height, width = r["processing_size"]
            plain, special = (r["latency"][k]["p50_ms"] for k in ("plain", "specialised"))
            memory = r["peak_gib"]
            lines.append(
                f"| specialised graph against the plain one, {what}, {height}x{width}, fp32, ONNX Runtime on CPU | "
                f"{special:.0f} ms against {plain:.0f} ms: {in_words(r['gains']['specialised'])}, medians of "
                f"{r['rounds']}, in turn; peak memory {memory['specialised']:.2f} against {memory['plain']:.2f} GiB "
                f"| {where(r)} |"
            )
    if r := load("build_engines_fp16"):
        first = r["engines"][0]
        height, width = r["processing_size"]
        lines.append(
            f"| ONNX and a TensorRT-RTX engine for {first['target']} without a GPU, SD2 size, fp16, {height}x{width} | "
            f"{r['onnx_and_first_engine_seconds']:.0f} s ({first['seconds']:.0f} s of it the engine), peak memory "
            f"{r['onnx_and_first_engine_peak_gib']:.1f} GiB; built, not executed | {where(r)} |"
        )
    if (r := load("sizes")) and "gain" in r["speed"][0]:
        each = (
            f"{s['latency']['as diffusers']['p50_ms']:.0f} ms at {'x'.join(map(str, s['frame_size']))} against "
            f"{s['latency']['to 64']['p50_ms']:.0f} ({in_words(s['gain'])})"
            for s in r["speed"]
        )
        lines.append(
            f"| {len(r['agreement'])} frame sizes, with and without a change of size, depth and normals, random "
            f"weights | within {r['worst_mean_abs_difference']:.0e} of diffusers' pipelines on average "
            f"| {where(r)} |"
        )
        lines.append(
            f"| sides padded to multiples of 8, as diffusers does, against 64; e2e-tiny, CPU | {', '.join(each)} "
            f"(medians of {r['rounds']}, in turn) | {where(r)} |"
        )
    if (r := load("loop_overhead")) and "ours_against" in r:
        times = r["ms_per_frame_median_of_rounds"]
        against = (
            f"{title} {times[name]:.1f} ({in_words(r['ours_against'][name])})"
            for name, title in LOOPS.items()
            if name in r["ours_against"]
        )
        lines.append(
            f"| a video file through the whole loop, e2e-tiny, {r['size'][0]}x{r['size'][1]} | {times['ours']:.1f} ms "
            f"a frame; in the same run, time for time: {', '.join(against)}; p99 "
            f"{r['p99_over_p50_in_the_loop']:.2f} times p50 | {where(r)} |"
        )
    if r := load("cold_start"):
        times = r["milliseconds"]["hashed"]
        lines.append(
            f"| the packaged bundle ({r['bundle']['bytes'] / 1e6:.0f} MB), from `import` to its first result in a new "
            f"process | {times['to_first_result'] / 1000:.2f} s; hashing it takes {r['hashing_ms']:.0f} ms of that, "
            f"{r['hashing_ms_of_sd2_fp16'] / 1000:.1f} s at SD2 size in fp16 (reckoned at that rate) | {where(r)} |"
        )
    if r := load("lean_install"):
        plain, small, native = r["plain"], r["smallest"], r["native"]
        lines.append(
            f"| what a robot installs, and a new process from its start to the first depth, e2e-tiny, 480x640 | `pip "
            f"install e2e-deploy` {plain['bytes'] / 1e6:.0f} MB: {plain['first_depth_ms']['median'] / 1000:.2f} s; "
            f"with NumPy and ONNX Runtime for CPUs alone {small['bytes'] / 1e6:.0f} MB: "
            f"{small['first_depth_ms']['median'] / 1000:.2f} s; the C program of examples/native "
            f"{native['process_ms']['median'] / 1000:.2f} s | {where(r)} |"
        )
    if r := load("bulk_overhead"):
        bulk, alone = r["bulk"]["pictures_per_second"], r["engine_alone_per_second"]
        lines.append(
            f"| `bulk`, one worker of {r['cores']} core, e2e-tiny, {r['size'][0]}x{r['size'][1]} JPEG to 16-bit PNG | "
            f"{bulk:.2f} pictures/s, the engine alone in memory {alone:.2f}: {100 * r['overhead']:.0f} % less, once "
            f"Ray and the engines have begun ({r['bulk']['until_first_shard_s']:.0f} s) | {where(r)} |"
        )
    if r := load("soak"):
        third = [sample["mib"] for sample in r["samples"]][2 * len(r["samples"]) // 3 :]
        last = third[-1] - third[0]
        lines.append(
            f"| {r['minutes']:.0f} minutes of a clip that is opened again and again, {r['frames']} frames | memory "
            f"grew by {r['growth_mib']:.0f} MiB from the first third to the last, and by {last:.0f} MiB within the "
            f"last; threads and open files did not | {where(r)} |"
        )
    if r := load("flicker"):
        aligned, whole = (
            r["summary"][f"exact_depth_{kind}_error_percent"]
            for kind in ("scale_shift", "temporal")
        )
        lines.append(
            "| steady depth against stretching each frame by its minimum and maximum, rendered clips | error of scale "
            f"and shift {aligned['min_max_over_ours']:.1f} times smaller, of single pixels "
            f"{whole['min_max_over_ours']:.2f} times | {where(r)} |"
        )
    if r := load("training_memory"):
        lines.append(
            "| memory of SD2-size training, one image of 480x640 at a time, counted without a GPU | "
            + ", ".join(
                f"{row['precision']} {row['peak_gb']:.1f} GB"
                for row in r["rows"]
                if row["gradient_checkpointing"] and row["trained"] == ["unet"]
            )
            + f" with gradient checkpointing | {where(r)} |"
        )
    return "\n".join(lines)


def _photo_row() -> list[str]:
    if not (r := load("e2e_tiny_photo")):
        return []
    return [
        f"| the Motorcycle photo, depth, AbsRel | {r['abs_rel']:.3f} | a constant: {r['constant_abs_rel']:.3f} "
        f"(`benchmarks/accuracy/score_photo.py`, {r['date'][:10]}) |"
    ]


def accuracy() -> str:
    """The table of e2e-tiny's accuracy, and of the paper in miniature."""
    lines = []
    if not load("e2e_tiny_scores"):
        lines += ["| e2e-tiny on | it | what needs no picture |", "|---|---|---|", *_photo_row()]
    if r := load("e2e_tiny_scores"):
        depth, normals = r["scores"]["depth"], r["scores"]["normals"]
        model, plane = depth["held_out"], depth["affine_fit_of_pixel_coordinates"]
        mean = normals["mean_normal_of_the_scene"]
        lines += [
            "| e2e-tiny on | it | what needs no picture |",
            "|---|---|---|",
            f"| {r['held_out_images']} held-out rendered scenes, depth, AbsRel (delta1) | {model['abs_rel']:.3f} "
            f"({model['delta1']:.3f}) | best affine fit of the pixel coordinates: {plane['abs_rel']:.3f} "
            f"({plane['delta1']:.3f}) |",
            f"| scenes seen in training, depth, AbsRel (delta1) | {depth['seen_in_training']['abs_rel']:.3f} "
            f"({depth['seen_in_training']['delta1']:.3f}) | |",
            *_photo_row(),
            f"| the held-out scenes, normals, mean (median) error | {normals['held_out']['mean_deg']:.1f} "
            f"({normals['held_out']['median_deg']:.1f}) degrees | the scene's mean normal: {mean['mean_deg']:.1f} "
            f"({mean['median_deg']:.1f}) degrees |",
            "",
            f"{where(r)}; trained on {r['train_images']['depth']} rendered scenes (normals: "
            f"{r['train_images']['normals']}).",
        ]
    if r := load("paper_in_miniature"):
        lines += ["", "| the paper in miniature | AbsRel | delta1 | s/image |", "|---|---|---|---|"]
        for row in r["variants"]:
            seconds = f"{row['seconds_per_image']:.3f}" if "seconds_per_image" in row else ""
            lines.append(
                f"| {row['name']} | {row['abs_rel']:.3f} | {row['delta1']:.3f} | {seconds} |"
            )
        lines += ["", f"{r['held_out_images']} held-out rendered scenes; {where(r)}."]
    return "\n".join(lines) or "Not measured."


def cpu_backends() -> str:
    """The table of backends on a CPU."""
    r = load("cpu_backends")
    return (
        "Not measured." if r is None else f"{cpu.table(r)}\n\n{where(r)}, medians of {r['rounds']}."
    )


def demo() -> str:
    """What ``make demo`` printed."""
    path = RESULTS / "demo.txt"
    if not path.is_file():
        return ""
    return "\n".join(
        f"    {line}".rstrip() for line in path.read_text(encoding="utf-8").splitlines()
    )


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"demo": demo, "numbers": numbers, "accuracy": accuracy},
    "docs/performance.md": {
        name: lambda write=write: write(RESULTS)  # each its own
        for name, write in (gpu_tables.BLOCKS | profiling_tables.BLOCKS).items()
    }
    | {"cpu-backends": cpu_backends},
    "docs/training_at_scale.md": {"plan": planning.table},
    "docs/bulk.md": {"growth": growth.table},
}
"""Page: marker: what stands between its two halves."""


def fill(text: str, blocks: dict[str, Callable[[], str]]) -> str:
    """A page with its blocks rewritten."""
    for name, write in blocks.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        text = f"{head}{begin}\n{write()}\n{end}{tail}"
    return text


def main() -> None:
    """Rewrite the pages, or with --check say which would change."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    for name, blocks in PAGES.items():
        path = ROOT / name
        before = path.read_text(encoding="utf-8")
        after = fill(before, blocks)
        if arguments.check and before != after:
            sys.exit(f"{name} is not what the results say: run python -m benchmarks.readme")
        if not arguments.check:
            path.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
