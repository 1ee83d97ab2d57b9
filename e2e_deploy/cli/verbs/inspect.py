"""``e2e-deploy inspect``: what a bundle or a checkpoint is."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from e2e_deploy.cli import options
from e2e_deploy.names import FamilyName, TaskName
from e2e_deploy.system.text import clean

if TYPE_CHECKING:
    from e2e_deploy.verbs.inspect import PlanFacts


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
def command(
    path: str, task: TaskName | None, family: FamilyName | None, as_json: bool, engines: bool
) -> None:
    """Say what PATH is: a bundle's manifest, checked against its files, or a checkpoint's family, task and size."""
    from e2e_deploy.verbs.inspect import inspect, inspect_plans

    if engines:
        _refuse_checkpoint_options(task, family)
        _print_plans(inspect_plans(path), as_json)
        return
    facts = asdict(inspect(path, task=task, family=family))
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    passes = facts.pop("passes", [])
    click.echo("\n".join([*_lines(facts), *(_pass_table(passes) if passes else [])]))


def _refuse_checkpoint_options(task: str | None, family: str | None) -> None:
    for name, value in (("--task", task), ("--family", family)):
        if value is not None:
            raise click.UsageError(f"{name} is for checkpoints, and --engine for bundles")


def _print_plans(plans: "list[PlanFacts]", as_json: bool) -> None:
    for plan in plans:
        if plan.not_read:
            click.echo(f"{plan.entry.file}: not read here: {plan.not_read}", err=True)
    rows = [
        asdict(plan.entry) | {"layers": plan.layers, "layers_from": plan.layers_from}
        for plan in plans
    ]
    click.echo(json.dumps(rows, indent=2) if as_json else "\n".join(_plan_table(rows)))
