"""The command line: one small file a verb, loaded when the verb is used, so that ``--help`` imports nothing heavy.

The only place that joins train, export and runtime. Results go to stdout, everything else to stderr.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import click

import e2e_deploy
from e2e_deploy.cli.signals import ending_like_ctrl_c
from e2e_deploy.errors import E2EDeployError, UsageError

# verb: (module, what --help says)
VERBS = {
    "demo": ("demo", "The whole path on the bundled checkpoint and real pictures."),
    "export": ("export", "Turn a checkpoint into a verified bundle."),
    "verify": ("verify", "Compare every backend here with the bundle's reference."),
    "run": ("run", "Run a picture, folder, video or camera through a bundle."),
    "bench": ("bench", "Measure a bundle's latency and throughput."),
    "inspect": ("inspect", "Say what a bundle or checkpoint is."),
    "train": ("train", "Fine-tune a model end to end."),
    "eval": ("evaluate", "Measure accuracy on a data set."),
    "data": ("data", "Prepare, render and check data sets."),
    "doctor": ("doctor", "Say what works on this machine."),
}
INTERRUPTED = 130


class Verbs(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order of the work."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of a verb, or None."""
        if name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"e2e_deploy.cli.{VERBS[name][0]}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs with one line each, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(e2e_deploy.__version__, prog_name="e2e-deploy")
def group() -> None:
    """Single-step diffusion depth and surface normals, from training to a real-time engine.

    Exit codes: 0 done; 1 failed; 2 wrong usage; 3 parity or accuracy outside its limit; 4 hardware or package
    missing; 5 input missing, unreadable or lost; 130 interrupted.
    """


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


def _refuse_empty(arguments: Sequence[str]) -> None:
    """An empty argument is most often an unset variable, and as a path it would be the current folder."""
    for index, argument in enumerate(arguments):
        if not argument or (argument.startswith("--") and argument.endswith("=")):
            before = arguments[index - 1] if index else ""
            option = argument or (before if before.startswith("-") and "=" not in before else "")
            name = option.rstrip("=") or f"argument {index + 1}"
            raise UsageError(f"{name} is given an empty text; is a variable unset?")


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``e2e-deploy``: errors raised on purpose become one line and an exit code."""
    try:
        _refuse_empty(sys.argv[1:] if arguments is None else arguments)
        with ending_like_ctrl_c():
            result: Any = group.main(arguments, prog_name="e2e-deploy", standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except E2EDeployError as error:
        click.echo(f"error: {_one_line(error)}", err=True)
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        code = INTERRUPTED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"error: {where}{_one_line(error.strerror or error)}", err=True)
        code = 1
    sys.exit(code)
