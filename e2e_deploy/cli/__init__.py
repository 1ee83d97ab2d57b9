"""The command line: one small file a verb, loaded when the verb is used, so that ``--help`` imports nothing heavy.

The only place that joins train, export and runtime. Results go to stdout, everything else to stderr.
"""

import importlib
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

import e2e_deploy
from e2e_deploy.cli.signals import ending_like_ctrl_c
from e2e_deploy.cli.streams import flush_streams, open_streams
from e2e_deploy.cli.wording import with_options
from e2e_deploy.errors import E2EDeployError, InputError, UsageError
from e2e_deploy.system.addresses import is_address, masked
from e2e_deploy.system.interrupts import left_behind
from e2e_deploy.system.text import clean

# verb: (module, what --help says)
VERBS = {
    "demo": ("demo", "The whole path on the bundled checkpoint and real pictures."),
    "export": ("export", "Turn a checkpoint into a verified bundle."),
    "verify": ("verify", "Compare every backend here with the bundle's reference."),
    "run": ("run", "Run a picture, folder, video or camera through a bundle."),
    "bulk": (
        "fleet.bulk",
        "Run very many pictures, on one machine or a cluster, each exactly once.",
    ),
    "serve": ("fleet.serve", "Serve a bundle over HTTP on this machine."),
    "bench": ("bench", "Measure a bundle's latency and throughput."),
    "inspect": ("inspect", "Say what a bundle or checkpoint is."),
    "train": ("train", "Fine-tune a model end to end."),
    "eval": ("evaluate", "Measure accuracy on a data set."),
    "results": ("results", "Put results of evaluations side by side."),
    "data": ("data", "Prepare, render and check data sets."),
    "doctor": ("doctor", "Say what works on this machine."),
}
INTERRUPTED = 130
MAX_MESSAGE = 2000  # characters


class Verbs(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order of the work."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of a verb, or None."""
        if name not in VERBS:
            return None
        command: click.Command = importlib.import_module(
            f"e2e_deploy.cli.verbs.{VERBS[name][0]}"
        ).command
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


def _refuse_empty(arguments: Sequence[str]) -> None:
    """An empty argument is most often an unset variable, and as a path it would be the current folder."""
    for index, argument in enumerate(arguments):
        if not argument or (argument.startswith("--") and argument.endswith("=")):
            before = arguments[index - 1] if index else ""
            option = argument or (before if before.startswith("-") and "=" not in before else "")
            name = option.rstrip("=") or f"argument {index + 1}"
            raise UsageError(f"{name} is given an empty text; is a variable unset?")


def _say(text: str, arguments: Sequence[str]) -> None:
    """Print a line on stderr: without control characters, and without the passwords of addresses in the arguments."""
    for argument in arguments:
        for given in (argument, argument.partition("=")[2]):
            if is_address(given) and given not in masked(given):
                for form in (given, str(Path(given)), repr(given)[1:-1]):
                    text = text.replace(form, masked(given))
    with suppress(OSError):  # nobody is there to read it; the exit code says it
        click.echo(clean(text, MAX_MESSAGE), err=True)


def _ending(error: BaseException) -> tuple[str, int]:
    """What is said about an error, and the exit code."""
    if isinstance(error, click.Abort) and isinstance(error.__cause__, EOFError):
        error = error.__cause__  # click takes it for Ctrl-D at a prompt, and there are none
    match error:
        case click.Abort() | KeyboardInterrupt():
            return "interrupted", INTERRUPTED
        case click.ClickException():
            shown = io.StringIO()
            error.show(shown)
            return shown.getvalue(), error.exit_code
        case E2EDeployError():
            return f"error: {with_options(str(error))}", error.exit_code
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            return f"error: {where}{error.strerror or error}", 1
        # The rest should not come this far: whoever reads an input knows what to say about it.
        case MemoryError():
            return f"error: there is not enough memory here: {error}", 1
        case RecursionError():
            return "error: an input is nested too deeply", InputError.exit_code
        case UnicodeError():
            return f"error: a text cannot be read or written: {error}", 1
        case EOFError():
            return "error: an input ends too early", InputError.exit_code
        case _:
            raise error


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``e2e-deploy``: errors raised on purpose become one line and an exit code."""
    open_streams()
    given = sys.argv[1:] if arguments is None else arguments
    try:
        _refuse_empty(given)
        with ending_like_ctrl_c():
            result: Any = group.main(arguments, prog_name="e2e-deploy", standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except (Exception, KeyboardInterrupt) as error:
        text, code = _ending(error)
        for line in text.splitlines() if isinstance(error, click.ClickException) else [text]:
            _say(line, given)
    code = code if flush_streams() else code or 1
    if left_behind():
        os._exit(code)
    sys.exit(code)
