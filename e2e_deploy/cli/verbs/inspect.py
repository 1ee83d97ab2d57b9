"""``e2e-deploy inspect``: what a bundle or a checkpoint is."""

import json
import math
from dataclasses import asdict
from typing import Any

import click

from e2e_deploy.cli import options
from e2e_deploy.system.text import clean


def _of_bundle(path: str) -> dict[str, Any]:
    from e2e_deploy.bundle.bundle import open_bundle

    return asdict(open_bundle(path).manifest)


def _of_checkpoint(path: str, family: str | None, task: str | None) -> dict[str, Any]:
    from e2e_deploy.model.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(path, family=family, task=task)
    parameters = {
        part: sum(math.prod(stored.shape) for stored in weights.tensors.values())
        for part, weights in checkpoint.weights.items()
    }
    return {
        "checkpoint": checkpoint.id,
        "family": checkpoint.identity.family.name,
        "task": checkpoint.identity.task,
        "decided": list(checkpoint.identity.reasons),
        "note": checkpoint.note,
        "resolution": checkpoint.resolution,
        "prediction_type": checkpoint.scheduler.get("prediction_type"),
        "zero_terminal_snr": bool(checkpoint.scheduler.get("rescale_betas_zero_snr", False)),
        "unet_in_channels": checkpoint.unet.get("in_channels"),
        "parameters": parameters,
        "sha256": checkpoint.sha256(),
    }


def _lines(value: Any, indent: int = 0) -> list[str]:
    """A parsed JSON value as indented lines that a terminal can show; short lists stay on one line."""
    pad = "  " * indent
    lines = []
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        label = f"{pad}{_shown(key)}:" if isinstance(value, dict) else f"{pad}-"
        if isinstance(item, dict) or (
            isinstance(item, list) and any(isinstance(i, dict | list) for i in item)
        ):
            lines += [label, *_lines(item, indent + 1)]
        else:
            text = ", ".join(str(i) for i in item) if isinstance(item, list) else item
            lines.append(f"{label} {_shown(text)}")
    return lines


def _shown(value: object) -> str:
    return clean(str(value), 4000)


def _pass_table(passes: list[dict[str, Any]]) -> list[str]:
    """What specialisation removed, a line a pass."""
    lines = ["specialised:           parameters removed        multiply-adds removed"]
    for entry in passes:
        parameters = entry["parameters_before"] - entry["parameters_after"]
        macs = entry["macs_before"] - entry["macs_after"]
        share = macs / (entry["macs_before"] or 1)
        lines.append(f"  {_shown(entry['name']):<22} {parameters:>16,} {macs:>20,} ({share:.2%})")
    return lines


SHARES = ("fp16", "bf16", "fp32", "int", "other")


def _plan_facts(path: str) -> list[dict[str, Any]]:
    """What every plan of a bundle consists of: read from it where its GPU is, else as noted when it was built."""
    from e2e_deploy.bundle.bundle import open_bundle
    from e2e_deploy.errors import UnavailableError, UsageError
    from e2e_deploy.runtime.backends.tensorrt.backend import inspect_plan

    bundle = open_bundle(path)
    if not bundle.manifest.plans:
        raise UsageError(f"{path} holds no plan; e2e-deploy export --precision fp16 builds one")
    facts = []
    for entry in bundle.manifest.plans:
        counts, source = entry.layers, "noted when it was built"
        try:
            graph = bundle.graph_for((entry.frame_size[0], entry.frame_size[1]))
            found, here = inspect_plan(bundle, graph, entry.backend)
            if found == entry:
                counts, source = here, "read from the plan"
        except UnavailableError as error:
            click.echo(f"{entry.file}: not read here: {error}", err=True)
        if not counts:  # built without a GPU, where nothing can read a plan
            counts = _whole_numbers(entry.options.get("network"))
            source = "the graph, before the builder fused it"
        facts.append(asdict(entry) | {"layers": counts, "layers_from": source})
    return facts


def _whole_numbers(value: object) -> dict[str, int]:
    """``value`` if it is such a table; a manifest may hold anything among a plan's options."""
    table = value if isinstance(value, dict) else {}
    return {key: count for key, count in table.items() if type(count) is int}


def _plan_table(facts: list[dict[str, Any]]) -> list[str]:
    """A line a plan: how many layers, the share of each precision, of reformat layers and of casts."""
    rows: list[tuple[str, ...]] = [
        ("frame", "engine", "target", "layers", *SHARES, "reformat", "cast", "layers are")
    ]
    for entry in facts:
        counts = entry["layers"]
        total = counts.get("layers", 0)
        shares = [
            f"{counts[key] / total:.1%}" if total and key in counts else "-"
            for key in (*SHARES, "reformat", "cast")
        ]
        frame, engine = (
            "x".join(map(str, entry["frame_size"])),
            f"{entry['backend']} {entry['version']}",
        )
        texts = (frame, engine, entry["target"], str(total), *shares, entry["layers_from"])
        rows.append(tuple(_shown(text) for text in texts))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


@click.command("inspect")
@click.argument("path")
@options.task
@options.family
@options.as_json
@click.option(
    "--engine",
    "engines",
    is_flag=True,
    help="Of a bundle's plans: layers, the share of each precision, of reformat layers and of casts.",
)
def command(path: str, task: str | None, family: str | None, as_json: bool, engines: bool) -> None:
    """Say what PATH is: a bundle's manifest, checked against its files, or a checkpoint's family, task and size."""
    if engines:
        rows = _plan_facts(path)
        click.echo(json.dumps(rows, indent=2) if as_json else "\n".join(_plan_table(rows)))
        return
    from e2e_deploy.bundle.bundle import is_bundle

    facts = _of_bundle(path) if is_bundle(path) else _of_checkpoint(path, family, task)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    passes = facts.pop("passes", [])
    click.echo("\n".join([*_lines(facts), *(_pass_table(passes) if passes else [])]))
