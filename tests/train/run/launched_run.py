"""A run in its own process: ``launched_run.py TABLE.json [die_at_step | die_while_saving | die_once STEP]``."""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from e2e_deploy.train.config.reading import parse_config
from e2e_deploy.train.run import loop, resume
from e2e_deploy.train.training import train_model


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    torch.set_num_threads(1)
    table = json.loads(Path(sys.argv[1]).read_text())
    how, number = (sys.argv[2], int(sys.argv[3])) if len(sys.argv) > 2 else ("", 0)
    read, tell, to_disk = loop.MixedBatches.batch_at, loop.Reporter.step, resume._to_disk
    mpi_rank = os.environ.get("OMPI_COMM_WORLD_RANK", "0")
    rank = os.environ.get("RANK", mpi_rank)

    def reading(self, step, slot):
        batch = read(self, step, slot)
        with (Path(table["run"]["out"]).parent / f"read-{rank}.txt").open("a") as file:
            file.writelines(f"{step} {path}\n" for path in batch["paths"])
        return batch

    def telling(self, report):
        tell(self, report)
        if how == "die_at_step" and report.step == number:
            die()
        died = Path(table["run"]["out"]).parent / "died"
        if how == "die_once" and report.step == number and rank == "1" and not died.exists():
            died.write_text(rank)
            die()

    def writing(file):
        to_disk(file)
        if how == "die_while_saving" and f"step-{number:08d}.partial" in file.parent.name:
            die()

    loop.MixedBatches.batch_at = reading
    loop.Reporter.step = telling
    resume._to_disk = writing
    train_model(parse_config(table))


if __name__ == "__main__":
    main()
