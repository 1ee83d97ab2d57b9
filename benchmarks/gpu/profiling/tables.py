"""The tables of docs/performance.md that say where the time goes: ONNX Runtime's variants, kernels, the package."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.tables import Result, broken, joined, on_gpu, reasons, table, where

SHOWN = ("as exported", "as exported, tf32", "fused norms, fp16 attention, nhwc, tf32")
"""Variants whose kernels are shown."""
LONGEST_NAME = 72


def _variants(result: Result) -> list[str]:
    rows = {name: row for name, row in result["variants"].items() if "latency" in row}
    lines = [
        [
            name,
            f"{row['latency']['p50_ms']:.1f}",
            f"{row['parity']['abs_rel']:.1e}",
            f"{row['device_used_gib']:.1f}",
            f"{row['first_runs_s']:.1f}",
        ]
        for name, row in sorted(rows.items(), key=lambda item: -item[1]["latency"]["p50_ms"])
    ]
    return table(["variant", "ms", "AbsRel to fp32", "GiB in use", "first runs, s"], lines)


def _by_kind(profiles: dict[str, Result]) -> list[str]:
    """Milliseconds of kernels by kind: a column a profile."""
    kinds = {kind: 0.0 for profile in profiles.values() for kind in profile["by_kind_ms"]}
    for profile in profiles.values():
        for kind, ms in profile["by_kind_ms"].items():
            kinds[kind] = max(kinds[kind], ms)
    rows = [
        [kind, *(f"{p['by_kind_ms'].get(kind, 0.0):.1f}" for p in profiles.values())]
        for kind in sorted(kinds, key=lambda kind: -kinds[kind])
        if kinds[kind] >= 0.1
    ]
    for title, key, form in (
        ("all kernels", "kernels_ms", ".1f"),
        ("launches", "kernels_a_call", ".0f"),
        ("a call, by the host's clock", "wall_ms", ".1f"),
    ):
        rows.append([title, *(format(p[key], form) for p in profiles.values())])
    return table(["ms", *profiles], rows)


def _top(profiles: dict[str, Result], count: int) -> list[str]:
    """The longest kernels of each profile."""
    rows = [
        [
            title,
            f"`{row['name'][:LONGEST_NAME]}`",
            row["kind"],
            f"{row['calls']:.0f}",
            f"{row['ms']:.2f}",
            f"{100 * row['share']:.0f} %",
        ]
        for title, profile in profiles.items()
        for row in profile["top"][:count]
    ]
    return table(["of", "kernel", "kind", "launches", "ms", "share"], rows)


def onnx_runtime(folder: Path) -> str:
    """Variants of the exported graph and of the provider's options, and the kernels of the telling ones."""
    blocks, profiles = [], dict[str, Result]()
    for result in on_gpu(folder, "profile_onnxruntime*"):
        if lines := broken(result):
            blocks.append(lines)
            continue
        lines = [*_variants(result), *reasons(result["variants"]), "", where(result)]
        blocks.append(lines)
        rows = result["variants"].items()
        profiles |= {name: row["profile"] for name, row in rows if "profile" in row}
    if profiles:
        ordered = {name: profiles[name] for name in SHOWN if name in profiles}
        blocks.append(["Their kernels:", "", *_by_kind(ordered), "", *_top(ordered, 4)])
    for result in on_gpu(folder, "profile_backend_onnxruntime"):
        lines = broken(result) or [*_ways(result), *reasons(result["ways"]), "", where(result)]
        blocks.append(lines)
    return joined(blocks)


def _ways(result: Result) -> list[str]:
    """The product's backend: its times and how it ran."""
    rows = [
        [
            name,
            f"{row['host_to_host']['p50_ms']:.1f}",
            f"{row['two_on_their_way_ms']:.1f}",
            f"{row['device_to_device']['p50_ms']:.1f}" if "device_to_device" in row else "",
            f"{row['parity']['abs_rel']:.1e}",
            row["runs_on"],
        ]
        for name, row in result["ways"].items()
        if "host_to_host" in row
    ]
    head = ["the backend", "ms, host to host", "a frame, two on their way", "ms, on the GPU"]
    return table([*head, "AbsRel to fp32", "runs on"], rows)


def stages(folder: Path) -> str:
    """The compiled stages: kernels by kind, and the longest ones."""
    blocks = []
    for result in on_gpu(folder, "profile_torch"):
        if lines := broken(result):
            blocks.append(lines)
            continue
        found = dict(result["stages"])
        if "diffusers_compiled" in result:
            found["diffusers, compiled"] = result["diffusers_compiled"]
        blocks.append([*_by_kind(found), "", *_top(found, 5), "", where(result)])
    return joined(blocks)


def _facts_of_package(result: Result) -> Iterator[tuple[str, str]]:
    package = result["package"]
    if "error" in package:
        yield "built", package["error"]
    else:
        yield "export", f"{package['export_s']:.1f} s"
        yield "compilation", f"{package['compile_s']:.0f} s"
        yield "size of the file", f"{package['package_mib']:.0f} MiB"
    for key, title in (
        ("fresh_process", "loaded in a process of its own"),
        ("same_process", "loaded beside the other contenders"),
    ):
        if key in result:
            found = result[key]
            yield (
                title,
                found.get("error") or f"{found['load_s']:.1f} s, took {found['took_gib']:.1f} GiB",
            )


def _times_of_package(rows: dict[str, Any]) -> list[str]:
    lines = [
        [name.replace("_", " ")]
        + [
            f"{row[key]['p50_ms']:.2f}" if key in row else ""
            for key in ("device_to_device", "host_to_host")
        ]
        + [f"{row['parity']['abs_rel']:.1e}" if "parity" in row else ""]
        for name, row in rows.items()
        if {"device_to_device", "host_to_host"} & set(row)
    ]
    head = ["contender", "ms, device to device", "ms, host to host", "AbsRel to fp32"]
    return ["", *table(head, lines)] if lines else ["", "Nothing was timed."]


def package(folder: Path) -> str:
    """What became of the AOTInductor package."""
    blocks = []
    for result in on_gpu(folder, "package"):
        if lines := broken(result):
            blocks.append(lines)
            continue
        facts = [list(fact) for fact in _facts_of_package(result)]
        lines = [*table(["AOTInductor package", "outcome"], facts)]
        blocks.append([*lines, *_times_of_package(result["rows"]), "", where(result)])
    return joined(blocks)


BLOCKS = {"gpu-onnxruntime": onnx_runtime, "gpu-stages": stages, "gpu-package": package}
"""Marker in docs/performance.md: what writes between its two halves from a folder of results."""
