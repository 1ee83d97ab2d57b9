"""Options that several verbs share, and the kinds of numbers that options take: none without an end."""

import math
import re
from pathlib import Path
from typing import Any

import click

from e2e_deploy.names import BACKEND_CHOICES, DEVICE_FORM, DEVICES, FAMILY_NAMES, TASK_NAMES


class Number(click.FloatRange):
    """A number from ``low`` to ``high``; nan, which compares with nothing, is in no range."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__(low, high)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number, or click's sentence and exit code 2."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


class Device(click.ParamType[str]):
    """A device by name: which of them are here is the backend's to say."""

    name = DEVICES.replace(", ", "|")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name, or click's sentence and exit code 2."""
        if not re.fullmatch(DEVICE_FORM, value):
            self.fail(f"{value!r} is not one of {DEVICES}.", param, ctx)
        return str(value)


def frame_size(text: str) -> tuple[int, int]:
    """(H, W) of frames that can be processed, from ``HxW``; else click's exit code 2 with what is wrong."""
    from e2e_deploy.errors import UsageError
    from e2e_deploy.frames import check_frame_size, parse_size

    try:
        size = parse_size(text)
        check_frame_size(*size)
    except UsageError as error:
        raise click.BadParameter(str(error)) from None
    return size


# The verb says what is wrong with a path: click asks whether an output can be read, and calls an input wrong usage.
PATH = click.Path(path_type=Path, readable=False)


class _Place(click.Path):
    """A path, or the address of something in a store as it was given."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and "://" in value:
            return value
        return super().convert(value, param, ctx)


PLACE = _Place(path_type=Path, readable=False)
COUNT = click.IntRange(1, 1_000_000_000)
COUNT_OR_NONE = click.IntRange(0, 1_000_000)
SEED = click.IntRange(0, 2**32 - 1)
WORKERS = click.IntRange(1, 256)
RESOLUTION = click.IntRange(0, 65536)  # of the longest edge in pixels; 0 keeps a frame's own size
SECONDS = Number(0.1, 86400.0)
RATE = Number(0.1, 10_000.0)  # frames a second

backend = click.option(
    "--backend",
    type=click.Choice(BACKEND_CHOICES),
    default="auto",
    show_default=True,
    help="A named one that is not here is an error.",
)
device = click.option(
    "--device",
    type=Device(),
    default="auto",
    show_default=True,
    help="Where it runs; cuda:1 is the second GPU.",
)
checkpoint = click.option(
    "--checkpoint",
    default=None,
    help="What BUNDLE was exported from, for PyTorch: a folder or a hub id. Else only a folder here is opened for it.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
bundle_argument = click.argument("bundle", type=click.Path(path_type=str, readable=False))
task = click.option(
    "--task",
    type=click.Choice(TASK_NAMES),
    default=None,
    help="What the checkpoint predicts, where its configs do not tell.  [default: depth]",
)
family = click.option(
    "--family",
    type=click.Choice(FAMILY_NAMES),
    default=None,
    help="Kind of checkpoint, where its configs do not tell.  [default: e2e-ft]",
)
