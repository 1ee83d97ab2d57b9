"""``e2e-deploy train``: end-to-end fine-tuning from a TOML file."""

from pathlib import Path

import click

from e2e_deploy.cli import options


@click.command("train")
@click.argument("config", type=options.PATH)
@click.option("--out", default=None, help="Folder of the run, instead of the config's run.out.")
@click.option(
    "--steps",
    type=options.COUNT,
    default=None,
    help="Optimizer steps, instead of the config's optim.steps.",
)
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Continue from the newest checkpoint in the run's folder, or refuse if there is one.",
)
def command(config: Path, out: str | None, steps: int | None, resume: bool) -> None:
    """Train what CONFIG (a TOML file) describes; prints the folder of the finished model.

    Ctrl-C saves a checkpoint and leaves, the same command continues. On several GPUs:
    accelerate launch --num_processes N $(which e2e-deploy) train CONFIG
    """
    from e2e_deploy.train.training import train_model

    result = train_model(config, out=out, steps=steps, resume=resume)
    if result.is_main:
        click.echo(str(result.model))
