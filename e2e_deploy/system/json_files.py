"""JSON that somebody else may have written: read within bounds, or one sentence says why not. And JSON for others.

Who uses it: checkpoints, bundles, training states, data sets. Types and ranges of the values are the reader's own.
"""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from e2e_deploy.errors import InputError
from e2e_deploy.system.files import read_bytes

MAX_BYTES = 2**24
"""16 MiB: the largest of our files, a bundle's manifest with many plans, has tens of KiB."""

MAX_DEPTH = 32
_MAX_INT = 2**63


def _whole_number(digits: str) -> int:
    if len(digits) > 20 or abs(value := int(digits)) >= _MAX_INT:
        raise ValueError(f"a number of {len(digits)} digits is beyond 64 bits")
    return value


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:20]} is beyond 64 bits")
    return value


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice[:40]!r} occurs twice")
    return table


def _require_shallow(value: Any) -> None:
    level, depth = [value], 0
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        level = [inner for x in level for inner in (x.values() if isinstance(x, dict) else x)]


def parse_json(
    data: bytes,
    name: str | Path,
    *,
    error: type[InputError] = InputError,
    with_infinity: bool = False,
) -> dict[str, Any]:
    """The JSON object in ``data``, UTF-8.

    Finite numbers within 64 bits, no key twice in one object, at most MAX_DEPTH objects and lists inside each other.

    Args:
        data: the text; its size is the caller's to bound.
        name: said in errors.
        error: what to raise.
        with_infinity: take NaN and Infinity too, which are no JSON and Python's writer writes.

    Raises:
        InputError: as ``error``: not JSON, not an object, or beyond these bounds.
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            parse_int=_whole_number,
            parse_float=_number,
            parse_constant=float if with_infinity else _no_number,
            object_pairs_hook=_unique,
        )
        _require_shallow(value)
    except RecursionError:
        raise error(f"{name} cannot be read as JSON: it is nested too deep") from None
    except ValueError as reason:  # also UnicodeDecodeError and JSONDecodeError
        raise error(f"{name} cannot be read as JSON: {reason}") from None
    if not isinstance(value, dict):
        raise error(f"{name} holds a {type(value).__name__}; expected a JSON object")
    return value


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON that every reader takes: NaN and infinity, which JSON has no word for, are null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def read_json(
    path: Path,
    *,
    error: type[InputError] = InputError,
    limit: int = MAX_BYTES,
    with_infinity: bool = False,
) -> dict[str, Any]:
    """The JSON object in the regular file ``path`` of at most ``limit`` bytes; bounds as of parse_json.

    Raises:
        InputError: as ``error``: missing, no regular file, too large, or what parse_json refuses.
    """
    try:
        data = read_bytes(path, limit)
    except FileNotFoundError:
        raise error(f"{path} is missing") from None
    except (OSError, ValueError) as reason:  # ValueError: a zero byte in the name
        said = reason.strerror if isinstance(reason, OSError) else None
        raise error(f"{path} cannot be read: {said or reason}") from None
    return parse_json(data, path, error=error, with_infinity=with_infinity)
