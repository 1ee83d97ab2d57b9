"""From a plain table (TOML, JSON) to typed dataclasses, with every mistake reported at once.

Knows: the types that appear in configs and the limits attached to them with ``Annotated``.
Does not know: what any key means.
"""

import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """Smallest and largest allowed number; ``open_low`` leaves the lower end out."""

    low: float = float("-inf")
    high: float = float("inf")
    open_low: bool = False

    def problem(self, value: float) -> str | None:
        """What is wrong with ``value``, or None; NaN fits no limits."""
        if (self.low < value if self.open_low else self.low <= value) and value <= self.high:
            return None
        sign = "above" if self.open_low else "at least"
        upper = "" if self.high == float("inf") else f" and at most {self.high:g}"
        return f"is {value}; expected {sign} {self.low:g}{upper}"


@dataclass(frozen=True, slots=True)
class _Wrong:
    """Stands for a value that could not be read."""


_WRONG = _Wrong()


def read_table(kind: type[T], table: Mapping[str, Any]) -> tuple[T | None, list[str]]:
    """An instance of the dataclass ``kind`` from ``table``, and every problem found.

    Understands bool, int, float, str, Literal, tuple, optional values, nested dataclasses and
    ``Annotated[..., Limits(...)]``. Unknown keys and missing required keys are problems.
    """
    problems: list[str] = []
    value = _table(kind, table, "", problems)
    return (None if problems else value), problems


def _table(kind: Any, table: object, where: str, problems: list[str]) -> Any:
    if not isinstance(table, Mapping):
        problems.append(f"{where.rstrip('.')} must be a table, got {table!r}")
        return _WRONG
    hints = get_type_hints(kind, include_extras=True)
    known = ", ".join(hints)
    problems += [f"unknown key {where}{key} (known: {known})" for key in table if key not in hints]
    values: dict[str, Any] = {}
    for field in fields(kind):
        name = f"{where}{field.name}"
        if field.name in table:
            values[field.name] = _value(hints[field.name], table[field.name], name, problems)
        elif field.default is MISSING and field.default_factory is MISSING:
            problems.append(f"{name} is missing")
            values[field.name] = _WRONG
    return _WRONG if any(value is _WRONG for value in values.values()) else kind(**values)


def _value(hint: Any, value: object, name: str, problems: list[str]) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        result = _value(args[0], value, name, problems)
        problem = None if result is _WRONG else args[1].problem(result)
        if problem:
            problems.append(f"{name} {problem}")
        return _WRONG if problem else result
    if origin in (Union, types.UnionType):
        inner = [arg for arg in args if arg is not type(None)]
        return None if value is None else _value(inner[0], value, name, problems)
    if is_dataclass(hint):
        return _table(hint, value, f"{name}.", problems)
    if origin is tuple:
        return _tuple(args, value, name, problems)
    if origin is Literal:
        if value in args:
            return value
        return _wrong(f"{name} is {value!r}; expected {' or '.join(map(repr, args))}", problems)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is hint:
        return value
    return _wrong(f"{name} is {value!r}; expected a value of type {hint.__name__}", problems)


def _tuple(args: tuple[Any, ...], value: object, name: str, problems: list[str]) -> Any:
    if not isinstance(value, (list, tuple)):
        return _wrong(f"{name} is {value!r}; expected a list", problems)
    if args[-1] is Ellipsis:
        args = (args[0],) * len(value)
    if len(args) != len(value):
        return _wrong(f"{name} has {len(value)} entries; expected {len(args)}", problems)
    items = [
        _value(arg, item, f"{name}[{i}]", problems)
        for i, (arg, item) in enumerate(zip(args, value, strict=True))
    ]
    return _WRONG if any(item is _WRONG for item in items) else tuple(items)


def _wrong(problem: str, problems: list[str]) -> _Wrong:
    problems.append(problem)
    return _WRONG
