"""``e2e-deploy verify``: parity of the backends on this machine."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from e2e_deploy.cli import options

if TYPE_CHECKING:
    from e2e_deploy.runtime.verify import Verdict


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


@click.command("verify")
@options.bundle_argument
@options.backend
@options.device
@options.as_json
def command(bundle: str, backend: str, device: str, as_json: bool) -> None:
    """Run BUNDLE's stored reference frames on the backends here and compare; exit 3 when a limit is broken.

    With --backend auto every backend that can run here is tried.
    """
    from e2e_deploy.bundle import open_bundle
    from e2e_deploy.errors import InputError, ParityError, UnavailableError
    from e2e_deploy.runtime.engine import BACKENDS
    from e2e_deploy.runtime.verify import verify_bundle

    opened = open_bundle(bundle)
    verdicts = []
    for name in BACKENDS if backend == "auto" else (backend,):
        try:
            verdicts += verify_bundle(opened, name, device)
        except (UnavailableError, InputError) as error:
            # Only a backend nobody named may be missing: torch on a robot, or a checkpoint that stayed elsewhere.
            if backend != "auto" or name == "onnxruntime":
                raise
            click.echo(f"{name}: not compared: {error}", err=True)
    if as_json:
        click.echo(json.dumps([asdict(v) | {"failures": v.failures} for v in verdicts], indent=2))
    else:
        print_verdicts(verdicts)
    if opened.manifest.checkpoint.note:
        click.echo(f"note: {opened.manifest.checkpoint.note}", err=True)
    failures = [
        f"{v.backend} {v.precision}: {'; '.join(v.failures)}" for v in verdicts if v.failures
    ]
    if failures:
        raise ParityError(" | ".join(failures))
