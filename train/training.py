"""Training from a config to a finished model folder: what ``e2e-deploy train`` calls.

Knows: files, overrides, the order of a config's runs. Does not know: torch, until a config is right.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from e2e_deploy.errors import UsageError
from e2e_deploy.packages import require
from e2e_deploy.train.config.reading import config_table, load_config, parse_config
from e2e_deploy.train.config.settings import TrainConfig, runs_of

if TYPE_CHECKING:
    from e2e_deploy.train.run.loop import TrainResult


def train_model(
    config: str | Path | TrainConfig,
    *,
    out: str | Path | None = None,
    steps: int | None = None,
    resume: bool = True,
) -> "TrainResult":
    """Train what ``config`` describes, and write ``<out>/model``, a diffusers folder that exports.

    Started by ``accelerate launch``, all processes share the work and the first one writes.
    The first Ctrl-C, SIGTERM or SIGHUP saves a checkpoint and leaves; the same call continues.

    Args:
        config: TOML file, or a config made in Python; every key is described in ``train/config/settings.py``.
        out: folder of the run, instead of ``run.out``.
        steps: optimizer steps, instead of ``optim.steps``.
        resume: continue from the newest checkpoint in the run's folder; False refuses if there is one.

    Raises:
        InputError: the file cannot be read.
        UsageError: the config is wrong (all its mistakes are listed), or the folder holds a run with another one.
        CheckpointError: the start or the newest checkpoint cannot be used.
        DataError: a data set is wrong, or a sample is damaged and ``run.on_bad`` is stop.
        UnavailableError: a package or the device for the precision is missing.
        E2EDeployError: loss or gradient stay NaN, memory does not do, a process that reads died, or a file cannot
            be written; the checkpoints from before are whole.
        KeyboardInterrupt: interrupted; the checkpoint is written.
    """
    runs = runs_of(_chosen(config, out, steps))
    require("accelerate", "train")
    from e2e_deploy.train.run.loop import train_run

    for run in runs[:-1]:
        train_run(run, resume=resume)
    if not runs[-1].data:
        return _only_distilled(runs[-1], resume=resume)
    return train_run(runs[-1], resume=resume)


def _only_distilled(config: TrainConfig, *, resume: bool) -> "TrainResult":
    """A run that ends with its distillation."""
    from e2e_deploy.train.processes.group import join_processes
    from e2e_deploy.train.run.failures import failures_said
    from e2e_deploy.train.run.loop import TrainResult
    from e2e_deploy.train.run.resume import Progress
    from e2e_deploy.train.start import load_start, prepared_in

    out = Path(config.run.out)
    if not resume and (before := prepared_in(out)) is not None:
        raise UsageError(f"{before} is there already: continue it, or name another `out`")
    accelerator = join_processes()
    with failures_said(config), accelerator.main_process_first():
        start = load_start(config, accelerator.device)
    return TrainResult(
        model=start.checkpoint.path,
        progress=Progress(),
        loss=None,
        evaluation=None,
        is_main=accelerator.is_main_process,
    )


def _chosen(
    config: str | Path | TrainConfig, out: str | Path | None, steps: int | None
) -> TrainConfig:
    """The config with what was given instead of its own values, checked again."""
    given = config if isinstance(config, TrainConfig) else load_config(config)
    table = config_table(given)
    if steps is not None and given.then:
        raise UsageError(
            f"`steps` is for one run, and this config has {1 + len(given.then)}: change optim.steps and then.steps"
        )
    if out is not None:
        table["run"]["out"] = str(out)
    if steps is not None:
        table["optim"]["steps"] = steps
    return parse_config(table)
