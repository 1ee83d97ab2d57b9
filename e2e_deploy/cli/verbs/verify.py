"""``e2e-deploy verify``: parity of the backends on this machine."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from e2e_deploy.cli import options, rebuild
from e2e_deploy.cli.wording import with_options
from e2e_deploy.names import BackendChoice
from e2e_deploy.system.json_files import to_json

if TYPE_CHECKING:
    from e2e_deploy.export.drift import LayerDrift
    from e2e_deploy.runtime.checks.polygraphy import PolygraphyVerdict
    from e2e_deploy.runtime.checks.verify import Verdict, Verification


def _row(verdict: "Verdict") -> tuple[str, ...]:
    parity, limit = verdict.parity, verdict.limit
    if limit.relative is not None:
        bound = f"rel < {limit.relative:g}"
    elif parity.mean_angle_deg is not None:
        bound = f"angle < {limit.mean_angle_deg:g} deg"
    elif parity.mean_abs is not None:
        bound = f"mean error < {limit.mean_abs:g}"
    else:
        bound = f"AbsRel < {limit.abs_rel:g}, {limit.share_within_2pct:.1%} in 2 %"
    error = f"{parity.abs_rel:.2e}" if parity.abs_rel is not None else "-"
    angle = f"{parity.mean_angle_deg:.2e}" if parity.mean_angle_deg is not None else "-"
    return (
        f"{verdict.frame_hw[0]}x{verdict.frame_hw[1]}",
        verdict.output,
        f"{verdict.backend} ({verdict.device})",
        verdict.precision,
        error,
        angle,
        f"{parity.max_abs:.2e}",
        bound,
        "FAIL" if verdict.failures else "pass",
    )


HEADER = ("frame", "output", "backend", "precision", "AbsRel", "angle", "max error", "limit", "")


def print_verdicts(verdicts: "list[Verdict]") -> None:
    """The verdicts as a table on stdout; outputs are named where there are several."""
    rows = [HEADER, *(_row(verdict) for verdict in verdicts)]
    if len({verdict.output for verdict in verdicts}) == 1:
        at = HEADER.index("output")
        rows = [(*row[:at], *row[at + 1 :]) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        click.echo(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _print_found(found: "Verification", opinions: "list[PolygraphyVerdict]", as_json: bool) -> None:
    for left_out in found.not_compared:
        click.echo(f"{left_out.backend}: not compared: {with_options(left_out.reason)}", err=True)
    if as_json:
        rows = [asdict(v) | {"failures": v.failures} for v in found.verdicts]
        click.echo(to_json([*rows, *map(asdict, opinions)], indent=2))
        return
    print_verdicts(found.verdicts)
    for opinion in opinions:
        click.echo(str(opinion))


def _print_layers(report: "list[LayerDrift]", folder: Path, as_json: bool) -> None:
    """The layers where most error enters, and the files."""
    for layer in sorted(report, key=lambda each: -each.entered)[:5]:
        click.echo(
            f"{layer.layer:<60} error {layer.relative_error:.1e}, {layer.entered:+.1e} here, "
            f"largest {layer.largest:.0f}",
            err=True,
        )
    for name in ("layers.csv", "layers.png"):
        click.echo(str(folder / name), err=as_json)


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
    from e2e_deploy.errors import ParityError
    from e2e_deploy.packages import require
    from e2e_deploy.runtime.checks.polygraphy import check_with_polygraphy
    from e2e_deploy.runtime.checks.verify import verify_bundle
    from e2e_deploy.runtime.checks.worst_region import WorstFrames
    from e2e_deploy.system.files import make_folder

    opened = open_bundle(bundle)
    if layers is not None:  # before the minutes that the rest takes
        require("torch", "export")
        from e2e_deploy.export.drift import report_drift, require_half

        require_half(opened)
    for folder in filter(None, (out, layers)):
        make_folder(folder)
    if rebuild_first:
        opened = rebuild.rebuild_plans(opened, backend, checkpoint)
    seen = WorstFrames()
    for_verify = backend in ("auto", "torch") or layers is None
    left = rebuild.left_for(backend, checkpoint, rebuilt=rebuild_first)
    found = verify_bundle(
        opened,
        backend,
        device,
        checkpoint=left if for_verify else None,
        watch=seen.see if out else None,
    )
    opinions = check_with_polygraphy(opened) if peer else []
    _print_found(found, opinions, as_json)
    if opened.manifest.checkpoint.note:
        click.echo(f"note: {opened.manifest.checkpoint.note}", err=True)
    if out is not None:
        for path, line in seen.write(out):
            click.echo(line, err=True)
            click.echo(str(path), err=as_json)
    if layers is not None:
        report = report_drift(opened, layers, checkpoint=checkpoint)
        _print_layers(report, layers, as_json)
    failures = [*found.failures, *(str(opinion) for opinion in opinions if not opinion.passed)]
    if failures:
        raise ParityError(" | ".join(failures))
