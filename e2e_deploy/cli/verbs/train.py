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
    from e2e_deploy.packages import require

    require("accelerate", "train")
    from e2e_deploy.train.config import config_table, load_config, parse_config
    from e2e_deploy.train.run.loop import train

    table = config_table(load_config(config))
    if out is not None:
        table["run"]["out"] = out
    if steps is not None:
        table["optim"]["steps"] = steps
    result = train(parse_config(table), resume=resume)
    if result.is_main:
        click.echo(str(result.model))
