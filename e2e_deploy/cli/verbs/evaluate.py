"""``e2e-deploy eval``: accuracy of a checkpoint or bundle on a folder data set."""

from dataclasses import asdict
from pathlib import Path

import click

from e2e_deploy.cli import options
from e2e_deploy.cli.wording import with_options
from e2e_deploy.names import OPPONENTS, SPACINGS, Opponent, Spacing, TaskName
from e2e_deploy.system.json_files import to_json


@click.command("eval")
@click.argument("model", type=click.Path(path_type=str, readable=False))
@click.argument("data", type=options.PATH)
@click.option("--split", default="test", show_default=True)
@click.option("--limit", type=options.COUNT, help="Measure this many images, evenly spread.")
@click.option(
    "--resolution",
    type=options.RESOLUTION,
    default=None,
    help="Longest edge the network sees, for a checkpoint; 0 keeps the pictures' own.  [default: the checkpoint's]",
)
@click.option("--csv", type=options.PATH, help="Write metrics per image.")
@click.option("--worst", type=options.PATH, help="Write a PNG with the eight worst images.")
@options.task
@options.family
@click.option(
    "--backend",
    type=click.Choice(OPPONENTS),
    default="auto",
    show_default=True,
    help="Of a bundle; diffusers runs a checkpoint in diffusers' own pipeline, for the published baselines.",
)
@click.option(
    "--steps",
    type=click.IntRange(1, 1000),
    help="Of diffusers' pipeline.  [default: the checkpoint's]",
)
@click.option(
    "--spacing",
    type=click.Choice(SPACINGS),
    help="Of its DDIM timesteps.  [default: the checkpoint's]",
)
@click.option(
    "--ensemble",
    type=click.IntRange(1, 100),
    help="Predictions that it aligns and merges for each image.  [default: 1]",
)
@click.option("--seed", type=options.SEED, help="Of its noise.  [default: 1234]")
@options.device
@options.as_json
def command(
    model: str,
    data: Path,
    split: str,
    limit: int | None,
    resolution: int | None,
    csv: Path | None,
    worst: Path | None,
    task: TaskName | None,
    family: str | None,
    backend: Opponent,
    steps: int | None,
    spacing: Spacing | None,
    ensemble: int | None,
    seed: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Measure MODEL (a bundle, or a checkpoint in PyTorch float32) on the folder data set DATA."""
    from e2e_deploy.errors import ParityError
    from e2e_deploy.progress import Count
    from e2e_deploy.verbs.evaluate import evaluate

    with Count("measuring", tenths=False) as count:
        result = evaluate(
            model,
            data,
            split=split,
            limit=limit,
            backend=backend,
            device=device,
            task=task,
            family=family,
            resolution=resolution,
            steps=steps,
            spacing=spacing,
            ensemble=ensemble,
            seed=seed,
            csv=csv,
            worst=worst,
            on_progress=count,
            on_note=lambda note: count.say(with_options(note)),
        )
    if as_json:
        click.echo(to_json({"model": model, "data": str(data), "split": split} | asdict(result)))
    else:
        click.echo(f"{' and '.join(result.kinds)} on {data} ({split}): {result.num_images} images")
        for name, value in result.values().items():
            click.echo(f"  {name:<14} {value:.4f}")
    for reason, number in result.left_out.items():
        click.echo(f"{number} images were left out: {reason}", err=True)
    if result.problem:
        raise ParityError(result.problem)
