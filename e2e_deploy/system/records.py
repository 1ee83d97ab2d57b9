"""From a parsed table (JSON, TOML) to typed dataclasses, every mistake reported at once: manifests, configs, cards.

Knows: the types that appear in records and the limits attached to them with ``Annotated``.
Does not know: what any key means.
"""

import math
import re
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
MAX_ITEMS, MAX_PROBLEMS, MAX_TEXT = 10_000, 100, 4000
"""Entries of a list or table; problems that are listed; characters of a text that is cleaned."""
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


@dataclass(frozen=True, slots=True)
class Form:
    """A pattern that a whole text matches, and what it is in words."""

    pattern: str
    words: str


@dataclass(frozen=True, slots=True)
class Items:
    """How many entries a list has, and what they are in words."""

    count: int
    words: str


_NO_LIMITS = Limits()
Count = Annotated[int, Limits(1, 10**9)]
CountOrZero = Annotated[int, Limits(0, 10**9)]


def read_toml(path: Path) -> dict[str, Any]:
    """The table in a regular TOML file.

    Raises:
        OSError: it cannot be read, or is larger than MAX_TOML_BYTES.
        ValueError: it is not TOML, nested too deep, or holds a number of thousands of digits.
    """
    return parse_toml(read_bytes(path, MAX_TOML_BYTES))


def parse_toml(content: bytes) -> dict[str, Any]:
    """The table in TOML; ValueError as of ``read_toml``."""
    try:
        return tomllib.loads(content.decode())
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def read_record(
    kind: type[T], table: Mapping[str, Any], *, complete: bool = False, clean_texts: bool = False
) -> tuple[T | None, list[str]]:
    """An instance of the dataclass ``kind`` from ``table``, and the problems found, at most MAX_PROBLEMS.

    Understands bool, int, float, str, Literal, list, tuple, dict of one type, unions, nested dataclasses, Any, and
    ``Annotated`` with Limits, Form or Items. Types are exact: a bool is no int. Unknown keys and missing required keys
    are problems.

    Args:
        kind: a dataclass.
        table: parsed JSON or TOML.
        complete: defaults do not count, every key must be there; for what a program wrote.
        clean_texts: a text may hold anything and is cleaned. Else one that is empty or has control characters is a
            problem.
    """
    reader = _Reader(complete=complete, clean_texts=clean_texts)
    value = reader.record(kind, table, "")
    return (None if reader.problems else value), reader.problems


def check_value(hint: Any, value: object, name: str) -> str | None:
    """The first problem of a value called ``name`` that ought to be of the type ``hint``, or None."""
    reader = _Reader(complete=False, clean_texts=True)
    reader.value(hint, value, name)
    return reader.problems[0] if reader.problems else None


@dataclass(frozen=True, slots=True)
class _Wrong:
    """Stands for a value that could not be read."""


_WRONG = _Wrong()


class _Reader:
    """Reads one table; what is wrong in it is in ``problems``."""

    def __init__(self, *, complete: bool, clean_texts: bool) -> None:
        self.problems: list[str] = []
        self._complete = complete
        self._clean_texts = clean_texts

    def _wrong(self, problem: str) -> _Wrong:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)
        return _WRONG

    def record(self, kind: Any, table: object, where: str) -> Any:
        if not isinstance(table, Mapping):
            return self._wrong(f"{where.rstrip('.')} must be a table, got {_shown(table)}")
        hints = get_type_hints(kind, include_extras=True)
        for key in table:
            if key not in hints:
                known = ", ".join(hints)
                self._wrong(f"unknown key {where}{clean(str(key), 80)} (known: {known})")
        values: dict[str, Any] = {}
        for field in fields(kind):
            name = f"{where}{field.name}"
            needed = field.default is MISSING and field.default_factory is MISSING
            if field.name in table:
                values[field.name] = self.value(hints[field.name], table[field.name], name)
            elif self._complete or needed:
                values[field.name] = self._wrong(f"{name} is missing")
        return _WRONG if any(value is _WRONG for value in values.values()) else kind(**values)

    def value(self, hint: Any, value: object, name: str, extra: Any = None) -> Any:
        origin, args = get_origin(hint), get_args(hint)
        if origin is Annotated:
            return self.value(args[0], value, name, args[1])
        if origin in (Union, types.UnionType):
            return self._one_of(args, value, name, extra)
        if hint is Any:
            return self._anything(value)
        if is_dataclass(hint):
            return self.record(hint, value, f"{name}.")
        if origin in (tuple, list):
            return self._list(origin, args, value, name, extra)
        if origin is dict:
            return self._dict(args[1], value, name)
        if origin is Literal:
            if any(type(value) is type(arg) and value == arg for arg in args):
                return value
            known = f"one of {', '.join(map(str, args))}" if len(args) > 4 else None
            return self._wrong(
                f"{name} is {_shown(value)}; expected {known or ' or '.join(map(repr, args))}"
            )
        return self._scalar(hint, value, name, extra)

    def _one_of(self, kinds: tuple[Any, ...], value: object, name: str, extra: Any) -> Any:
        """As the kind that the value has, as a list where one of them is and the value is one, else as the first."""
        if value is None and type(None) in kinds:
            return None
        inner = [kind for kind in kinds if kind is not type(None)]
        lists = [kind for kind in inner if get_origin(kind) is list]
        fitting = lists if isinstance(value, list) else [k for k in inner if type(value) is k]
        return self.value((fitting or inner)[0], value, name, extra)

    def _scalar(self, kind: Any, value: object, name: str, extra: Any) -> Any:
        if kind is float and type(value) is int:
            value = float(value) if abs(value) < _LARGEST else math.inf
        if type(value) is not kind:
            return self._wrong(
                f"{name} is {_shown(value)}; expected a value of type {kind.__name__}"
            )
        problem = None
        if isinstance(value, str):
            if isinstance(extra, Form) and not re.fullmatch(extra.pattern, value):
                problem = f"is {_shown(value)}; expected {extra.words}"
            elif self._clean_texts:
                return _cleaned(value)
            elif not value or any(c < " " or c == "\x7f" for c in value):
                problem = f"is {_shown(value)}; expected a text that is not empty, without control characters"
        elif isinstance(value, int | float) and kind is not bool:
            problem = (extra or _NO_LIMITS).problem(value)
        return self._wrong(f"{name} {problem}") if problem else value

    def _list(self, kind: type, args: tuple[Any, ...], value: object, name: str, extra: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            return self._wrong(f"{name} is {_shown(value)}; expected a list")
        if len(value) > MAX_ITEMS:
            return self._wrong(f"{name} has {len(value)} entries; expected at most {MAX_ITEMS}")
        if kind is list or args[-1] is Ellipsis:
            args = (args[0],) * len(value)
        count, words = (extra.count, f": {extra.words}") if extra else (len(args), "")
        if count != len(value):
            return self._wrong(f"{name} has {len(value)} entries; expected {count}{words}")
        items = [
            self.value(arg, item, f"{name}[{i}]")
            for i, (arg, item) in enumerate(zip(args, value, strict=True))
        ]
        return _WRONG if any(item is _WRONG for item in items) else kind(items)

    def _dict(self, kind: Any, value: object, name: str) -> Any:
        if not isinstance(value, Mapping):
            return self._wrong(f"{name} must be a table, got {_shown(value)}")
        if len(value) > MAX_ITEMS:
            return self._wrong(f"{name} has {len(value)} entries; expected at most {MAX_ITEMS}")
        items = {
            self.value(str, key, f"a key of {name}"): self.value(
                kind, item, f"{name}.{clean(str(key), 80)}"
            )
            for key, item in value.items()
        }
        return _WRONG if any(_WRONG in (key, item) for key, item in items.items()) else items

    def _anything(self, value: Any) -> Any:
        """A value of any form; its texts are cleaned where the others are."""
        match value:
            case str() if self._clean_texts:
                return _cleaned(value)
            case dict():
                return {self._anything(key): self._anything(item) for key, item in value.items()}
            case list():
                return [self._anything(item) for item in value]
        return value


def _cleaned(text: str) -> str:
    """A text as it may be printed, stored and handed to C libraries; most are, and stay as they are."""
    return text if text.isprintable() and len(text) <= MAX_TEXT else clean(text, MAX_TEXT)


def _shown(value: object) -> str:
    try:
        return clean(_short.repr(value), 120)
    except ValueError:  # Python refuses to print thousands of digits
        return "a number of thousands of digits"
