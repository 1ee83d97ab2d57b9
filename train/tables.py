"""From a plain table (TOML, JSON) to typed dataclasses, with every mistake reported at once.

Knows: the types that appear in configs and the limits attached to them with ``Annotated``.
Does not know: what any key means.
"""

import math
import reprlib
import sys
import tomllib
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from e2e_deploy.system.files import read_bytes
from e2e_deploy.system.text import clean

T = TypeVar("T")

MAX_TOML_BYTES = 2**20
"""Of a file that people write; ours have a few kilobytes."""
_LARGEST = sys.float_info.max
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


@dataclass(frozen=True, slots=True)
class Limits:
    """Smallest and largest allowed number; ``open_low`` leaves the lower end out.

    Infinity is allowed only where it is named as an end; NaN never is.
    """

    low: float = -_LARGEST
    high: float = _LARGEST
    open_low: bool = False

    def problem(self, value: float) -> str | None:
        """What is wrong with ``value``, or None."""
        if (self.low < value if self.open_low else self.low <= value) and value <= self.high:
            return None
        expected = f"{'above' if self.open_low else 'at least'} {self.low:g}"
        if self.low == -_LARGEST or abs(value) == math.inf:
            expected = "a finite number"
        upper = f" and at most {self.high:.15g}" if self.high < _LARGEST else ""
        return f"is {_shown(value)}; expected {expected}{upper}"


Count = Annotated[int, Limits(1, 10**9)]
CountOrZero = Annotated[int, Limits(0, 10**9)]


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a regular TOML file.

    Raises:
        OSError: it cannot be read, or is larger than MAX_TOML_BYTES.
        ValueError: it is not TOML, nested too deep, or holds a number of thousands of digits.
    """
    try:
        return tomllib.loads(read_bytes(path, MAX_TOML_BYTES).decode())
    except RecursionError:
        raise ValueError("it is nested too deep") from None


@dataclass(frozen=True, slots=True)
class _Wrong:
    """Stands for a value that could not be read."""


_WRONG = _Wrong()


def read_table(kind: type[T], table: Mapping[str, Any]) -> tuple[T | None, list[str]]:
    """An instance of the dataclass ``kind`` from ``table``, and every problem found.

    Understands bool, int, float, str, Literal, tuple, dict of one type, optional values, nested dataclasses
    and ``Annotated[..., Limits(...)]``. Unknown keys and missing required keys are problems, as are empty
    strings and those with control characters.
    """
    problems: list[str] = []
    value = _table(kind, table, "", problems)
    return (None if problems else value), problems


def _table(kind: Any, table: object, where: str, problems: list[str]) -> Any:
    if not isinstance(table, Mapping):
        problems.append(f"{where.rstrip('.')} must be a table, got {_shown(table)}")
        return _WRONG
    hints = get_type_hints(kind, include_extras=True)
    known = ", ".join(hints)
    problems += [
        f"unknown key {where}{clean(str(key), 80)} (known: {known})"
        for key in table
        if key not in hints
    ]
    values: dict[str, Any] = {}
    for field in fields(kind):
        name = f"{where}{field.name}"
        if field.name in table:
            values[field.name] = _value(hints[field.name], table[field.name], name, problems)
        elif field.default is MISSING and field.default_factory is MISSING:
            problems.append(f"{name} is missing")
            values[field.name] = _WRONG
    return _WRONG if any(value is _WRONG for value in values.values()) else kind(**values)


def _value(
    hint: Any, value: object, name: str, problems: list[str], limits: Limits = Limits()
) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _value(args[0], value, name, problems, args[1])
    if origin in (Union, types.UnionType):
        inner = [arg for arg in args if arg is not type(None)]
        return None if value is None else _value(inner[0], value, name, problems, limits)
    if is_dataclass(hint):
        return _table(hint, value, f"{name}.", problems)
    if origin is tuple:
        return _tuple(args, value, name, problems)
    if origin is dict:
        return _dict(args[1], value, name, problems)
    if origin is Literal:
        if value in args:
            return value
        return _wrong(
            f"{name} is {_shown(value)}; expected {' or '.join(map(repr, args))}", problems
        )
    if hint is float and type(value) is int:
        value = float(value) if abs(value) < _LARGEST else math.inf
    if type(value) is not hint:
        return _wrong(
            f"{name} is {_shown(value)}; expected a value of type {hint.__name__}", problems
        )
    problem = None
    if isinstance(value, str) and (not value or any(c < " " or c == "\x7f" for c in value)):
        problem = (
            f"is {_shown(value)}; expected a text that is not empty, without control characters"
        )
    elif isinstance(value, int | float) and hint is not bool:
        problem = limits.problem(value)
    if problem:
        return _wrong(f"{name} {problem}", problems)
    return value


def _tuple(args: tuple[Any, ...], value: object, name: str, problems: list[str]) -> Any:
    if not isinstance(value, (list, tuple)):
        return _wrong(f"{name} is {_shown(value)}; expected a list", problems)
    if args[-1] is Ellipsis:
        args = (args[0],) * len(value)
    if len(args) != len(value):
        return _wrong(f"{name} has {len(value)} entries; expected {len(args)}", problems)
    items = [
        _value(arg, item, f"{name}[{i}]", problems)
        for i, (arg, item) in enumerate(zip(args, value, strict=True))
    ]
    return _WRONG if any(item is _WRONG for item in items) else tuple(items)


def _dict(hint: Any, value: object, name: str, problems: list[str]) -> Any:
    if not isinstance(value, Mapping):
        return _wrong(f"{name} must be a table, got {_shown(value)}", problems)
    items = {
        _value(str, key, f"a key of {name}", problems): _value(
            hint, item, f"{name}.{clean(str(key), 80)}", problems
        )
        for key, item in value.items()
    }
    return _WRONG if any(_WRONG in (key, item) for key, item in items.items()) else items


def _shown(value: object) -> str:
    try:
        return clean(_short.repr(value), 120)
    except ValueError:  # Python refuses to print thousands of digits
        return "a number of thousands of digits"


def _wrong(problem: str, problems: list[str]) -> _Wrong:
    problems.append(problem)
    return _WRONG
