"""``e2e-deploy inspect``: what a bundle or a checkpoint is."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from e2e_deploy.cli import options


def _of_bundle(path: str) -> dict[str, Any]:
    from e2e_deploy.bundle import open_bundle

    return asdict(open_bundle(path).manifest)


def _of_checkpoint(path: str, family: str | None, task: str | None) -> dict[str, Any]:
    from e2e_deploy.checkpoint import open_checkpoint, read_header

    checkpoint = open_checkpoint(path, family=family, task=task)
    parameters = {}
    for part in ("unet", "vae", "text_encoder"):
        shapes = [shape for _, shape in read_header(checkpoint.weight_file(part)).values()]
        parameters[part] = sum(_product(shape) for shape in shapes)
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


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


def _lines(value: Any, indent: int = 0) -> list[str]:
    """A parsed JSON value as indented lines; short lists stay on one line."""
    pad = "  " * indent
    lines = []
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        label = f"{pad}{key}:" if isinstance(value, dict) else f"{pad}-"
        if isinstance(item, dict) or (
            isinstance(item, list) and any(isinstance(i, dict | list) for i in item)
        ):
            lines += [label, *_lines(item, indent + 1)]
        else:
            shown = ", ".join(str(i) for i in item) if isinstance(item, list) else item
            lines.append(f"{label} {shown}")
    return lines


def _pass_table(passes: list[dict[str, Any]]) -> list[str]:
    """What specialisation removed, a line a pass."""
    lines = ["specialised:           parameters removed        multiply-adds removed"]
    for entry in passes:
        parameters = entry["parameters_before"] - entry["parameters_after"]
        macs = entry["macs_before"] - entry["macs_after"]
        share = macs / entry["macs_before"]
        lines.append(f"  {entry['name']:<22} {parameters:>16,} {macs:>20,} ({share:.2%})")
    return lines


@click.command("inspect")
@click.argument("path")
@options.task
@options.family
@options.as_json
def command(path: str, task: str | None, family: str | None, as_json: bool) -> None:
    """Say what PATH is: a bundle's manifest, checked against its files, or a checkpoint's family, task and size."""
    is_bundle = (Path(path) / "manifest.json").is_file()
    facts = _of_bundle(path) if is_bundle else _of_checkpoint(path, family, task)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    passes = facts.pop("passes", [])
    click.echo("\n".join([*_lines(facts), *(_pass_table(passes) if passes else [])]))
