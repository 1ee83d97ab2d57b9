"""No option takes a number without an end."""

import click
import pytest

from e2e_deploy.cli import group, options
from e2e_deploy.errors import UsageError
from e2e_deploy.runtime.checks.rates import at_rate
from e2e_deploy.runtime.sources.live import StreamSource
from e2e_deploy.runtime.sources.uris import open_source

ENDLESS = ("nan", "inf", "-inf", "1e308", "-1e308", "1" + "0" * 20, "9" * 5000, "x")
SIZES = ("0x0", "-1x64", "nanxnan", "1e9x64", "999999x999999", "1" + "0" * 20 + "x64", "64")


def verbs():
    """Every command with its path of names."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        for sub in command.commands.values() if isinstance(command, click.Group) else [command]:
            yield ([name] if sub is command else [name, sub.name]), sub


def numbers():
    for path, command in verbs():
        for option in command.params:
            if isinstance(option, click.Option):
                kind = option.type
                if isinstance(kind, click.types.IntParamType | click.types.FloatParamType):
                    yield pytest.param(path, command, option, id=" ".join([*path, option.opts[0]]))


def arguments_of(command):
    """Something for every argument that must be there; a choice where one is asked for."""
    for parameter in command.params:
        if isinstance(parameter, click.Argument) and parameter.required:
            kind = parameter.type
            yield kind.choices[0] if isinstance(kind, click.Choice) else "x"
        elif parameter.required:
            yield from (parameter.opts[0], "x")


@pytest.mark.parametrize(("path", "command", "option"), [*numbers()])
def test_every_number_has_bounds(cli, path, command, option):
    assert option.type.min is not None
    assert option.type.max is not None
    for value in ENDLESS:
        code, stdout, stderr = cli(*path, *arguments_of(command), f"{option.opts[0]}={value}")
        assert (code, stdout) == (2, ""), value
        assert f"Invalid value for '{option.opts[0]}'" in stderr


@pytest.mark.parametrize(
    "start", [("export", "--frame-size"), ("data", "render", "x", "--size")], ids=" ".join
)
def test_every_size_can_be_processed(cli, start):
    for value in SIZES:
        code, stdout, stderr = cli(*start, value)
        assert (code, stdout) == (2, ""), value
        assert f"Invalid value for '{start[-1]}'" in stderr


def test_the_walk_finds_them():
    """It would pass over a verb whose options it cannot see."""
    found = {parameter.id for parameter in numbers()}
    assert {"run --timeout", "bench --rate", "export --resolution", "data render --seed"} <= found
    assert options.SECONDS.convert("5", None, None) == 5.0


@pytest.mark.parametrize(
    "spec",
    [
        *(f"test:?fps={value}" for value in ("nan", "inf", "1e308", "1e-300", "-1", "", "1e5")),
        *(f"test:?frames={value}" for value in ("nan", "inf", "1e20", "-1", "1.5", "")),
        *(f"test:?size={value}" for value in SIZES if value not in ("0x0", "999999x999999")),
        "camera:0?fps=nan",
    ],
)
def test_numbers_in_a_source(spec):
    with pytest.raises(UsageError):
        open_source(spec)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e308, -1.0, 0.0, 1e-300])
def test_in_python_a_time_that_never_ends_is_refused(value):
    with pytest.raises(UsageError, match="time-out"):
        StreamSource("rtsp://127.0.0.1/x", timeout_s=value)
    with pytest.raises(UsageError, match="cannot be measured"):
        at_rate(None, [], 30.0, -value if value == 1e-300 else value)
    with pytest.raises(UsageError, match="cannot be measured"):
        at_rate(None, [], -value if value == 1e-300 else value, 1.0)
    if not value >= 0:
        with pytest.raises(UsageError, match="time to reconnect"):
            StreamSource("rtsp://127.0.0.1/x", reconnect_s=value)
