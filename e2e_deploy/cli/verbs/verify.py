"""``e2e-deploy verify``: parity of the backends on this machine."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from e2e_deploy.cli import options, rebuild
from e2e_deploy.names import BackendChoice
from e2e_deploy.system.json_files import to_json

if TYPE_CHECKING:
    from e2e_deploy.bundle.bundle import Bundle
    from e2e_deploy.runtime.checks.verify import Verdict


def _row(verdict: "Verdict") -> tuple[str, ...]:
    parity, limit = verdict.parity, verdict.limit
    if limit.relative is not None:
        bound = f"rel < {limit.relative:g}"
    elif parity.mean_angle_deg is not None:
        bound = f"angle < {limit.mean_angle_deg:g} deg"
    else:
        bound = f"AbsRel < {limit.abs_rel:g}, {limit.share_within_2pct:.1%} in 2 %"
    error = f"{parity.abs_rel:.2e}" if parity.abs_rel is not None else "-"
    angle = f"{parity.mean_angle_deg:.2e}" if parity.mean_angle_deg is not None else "-"
    return (
        f"{verdict.frame_hw[0]}x{verdict.frame_hw[1]}",
        f"{verdict.backend} ({verdict.device})",
        verdict.precision,
        error,
        angle,
        f"{parity.max_abs:.2e}",
        bound,
        "FAIL" if verdict.failures else "pass",
    )


HEADER = ("frame", "backend", "precision", "AbsRel", "angle", "max error", "limit", "")


def print_verdicts(verdicts: "list[Verdict]") -> None:
    """The verdicts as a table on stdout."""
    rows = [HEADER, *(_row(verdict) for verdict in verdicts)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    for row in rows:
        click.echo(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _write_layers(bundle: "Bundle", folder: Path) -> None:
    """The drift report of a half-precision bundle on its first stored frame."""
    from e2e_deploy.errors import UsageError
    from e2e_deploy.packages import require

    require("torch", "export")
    from e2e_deploy.export.drift import layer_drift, write_plot, write_table
    from e2e_deploy.runtime.backends.torch import original_checkpoint

    manifest = bundle.manifest
    if manifest.precision not in ("fp16", "bf16"):
        raise UsageError(
            f"--layers compares half precision with fp32, and this bundle is {manifest.precision}"
        )
    checkpoint = original_checkpoint(bundle)
    frames, _ = bundle.reference(manifest.graphs[0])
    report = layer_drift(
        checkpoint,
        frames[0],
        manifest.precision,
        resolution=manifest.resolution,
        pad=manifest.pad,
    )
    write_table(report, folder / "layers.csv")
    write_plot(report, folder / "layers.png", f"{manifest.precision} against fp32, {checkpoint.id}")
    for layer in sorted(report, key=lambda each: -each.entered)[:5]:
        click.echo(
            f"{layer.layer:<60} error {layer.relative_error:.1e}, {layer.entered:+.1e} here, "
            f"largest {layer.largest:.0f}",
            err=True,
        )
    for name in ("layers.csv", "layers.png"):
        click.echo(str(folder / name))


@click.command("verify")
@options.bundle_argument
@options.backend
@options.device
@options.checkpoint
@rebuild.option
@click.option(
    "--with",
    "peer",
    type=click.Choice(["polygraphy"]),
    default=None,
    help="Also let NVIDIA's polygraphy run the graph with ONNX Runtime and compare it with the reference.",
)
@options.as_json
@click.option(
    "--layers",
    type=options.PATH,
    default=None,
    help="Also compare every layer with fp32 and write layers.csv and layers.png into this folder; needs torch.",
)
@click.option(
    "--out",
    type=options.PATH,
    default=None,
    help="Also write a picture for each frame size and backend: its worst frame, the worst region marked.",
)
def command(
    bundle: str,
    backend: BackendChoice,
    device: str,
    checkpoint: str | None,
    rebuild_first: bool,
    peer: str | None,
    as_json: bool,
    layers: Path | None,
    out: Path | None,
) -> None:
    """Run BUNDLE's stored reference frames on the backends here and compare; exit 3 when a limit is broken.

    With --backend auto every backend that can run here is tried.
    """
    from e2e_deploy.bundle.bundle import open_bundle
    from e2e_deploy.errors import (
        CheckpointError,
        InputError,
        ParityError,
        UnavailableError,
        UsageError,
    )
    from e2e_deploy.names import BACKENDS
    from e2e_deploy.runtime.checks.polygraphy import check_with_polygraphy
    from e2e_deploy.runtime.checks.verify import verify_bundle
    from e2e_deploy.runtime.checks.worst_region import WorstFrames
    from e2e_deploy.system.files import make_folder

    opened = open_bundle(bundle)
    for folder in filter(None, (out, layers)):
        make_folder(folder)
    if rebuild_first:
        opened = rebuild.rebuild_plans(opened, backend)
    has_use = backend in ("auto", "torch") or layers is not None
    opened = options.with_checkpoint(opened, checkpoint, has_use=has_use)
    verdicts = []
    seen = WorstFrames(opened.manifest.task)
    for name in BACKENDS if backend == "auto" else (backend,):
        try:
            verdicts += verify_bundle(opened, name, device, seen.see if out else None)
        except (UnavailableError, InputError, UsageError) as error:
            # Only a backend nobody named may be missing: torch on a robot, a checkpoint that stayed elsewhere, or
            # TensorRT with --device cpu.
            if backend != "auto" or name == "onnxruntime":
                raise
            way_out = " (--checkpoint)" if isinstance(error, CheckpointError) else ""
            click.echo(f"{name}: not compared: {error}{way_out}", err=True)
    opinions = check_with_polygraphy(opened) if peer else []
    if as_json:
        rows = [asdict(v) | {"failures": v.failures} for v in verdicts]
        click.echo(to_json([*rows, *map(asdict, opinions)], indent=2))
    else:
        print_verdicts(verdicts)
        for opinion in opinions:
            click.echo(str(opinion))
    if opened.manifest.checkpoint.note:
        click.echo(f"note: {opened.manifest.checkpoint.note}", err=True)
    if out is not None:
        for path, line in seen.write(out):
            click.echo(line, err=True)
            click.echo(str(path), err=as_json)
    if layers is not None:
        _write_layers(opened, layers)
    failures = [
        f"{v.backend} {v.precision}: {'; '.join(v.failures)}" for v in verdicts if v.failures
    ]
    failures += [str(opinion) for opinion in opinions if not opinion.passed]
    if failures:
        raise ParityError(" | ".join(failures))
