"""A training run as a TOML file or a plain table, and which of its keys a continued run may change.

Knows: reading, writing, comparing. Does not know: the settings (``settings``), devices.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from e2e_deploy.errors import InputError, UsageError
from e2e_deploy.system.records import read_record, read_toml
from e2e_deploy.train.config.contradictions import contradictions, contradictions_of_parts
from e2e_deploy.train.config.settings import TrainConfig

# Keys that may differ between a run and its continuation: they do not change what a step computes.
FREE_ON_RESUME = (
    "run.",
    "eval",
    "speed.",
    "optim.steps",
    "model.resolution",
    "model.gradient_checkpointing",
)
FIXED_ON_RESUME = ("run.seed",)
LOWER_ON_RESUME = ("optim.lr",)
"""May become smaller, which is the way on after steps that gave NaN."""


def load_config(path: Path | str) -> TrainConfig:
    """Read a run from a TOML file.

    Raises:
        InputError: it cannot be read.
        UsageError: not TOML, or wrong; unknown keys, wrong types, values outside their
            limits and contradictions are all listed at once.
    """
    try:
        table = read_toml(Path(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    return parse_config(table, name=str(path))


def parse_config(table: Mapping[str, Any], *, name: str = "the config") -> TrainConfig:
    """A run from a plain table; errors as in ``load_config``."""
    config, problems = read_record(TrainConfig, table)
    if config is not None:
        problems = contradictions(config)
    else:
        problems += contradictions_of_parts(table)
    if config is None or problems:
        found = "one mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
        raise UsageError(f"{name} has {found}:" + "".join(f"\n  - {line}" for line in problems))
    return config


def config_table(config: TrainConfig) -> dict[str, Any]:
    """The plain table that ``parse_config`` reads back, without keys that say nothing."""

    def drop(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {
            key: value for key, value in pairs if value is not None and (key, value) != ("then", ())
        }

    return asdict(config, dict_factory=drop)


def config_sha256(config: TrainConfig) -> str:
    """SHA-256 of the config as sorted JSON."""
    text = json.dumps(config_table(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Keys, dotted, in which two config tables differ and a continued run must not."""
    flat_old, flat_new = _flat(old), _flat(new)
    return sorted(
        key
        for key in flat_old.keys() | flat_new.keys()
        if flat_old.get(key) != flat_new.get(key)
        and (key in FIXED_ON_RESUME or not key.startswith(FREE_ON_RESUME))
        and not (key in LOWER_ON_RESUME and _is_lower(flat_new.get(key), flat_old.get(key)))
    )


def _is_lower(new: str | None, old: str | None) -> bool:
    values = [json.loads(text) for text in (new, old) if text is not None]
    return all(isinstance(value, float) for value in values) and values == sorted(values)


def _without_cache(part: object) -> object:
    """A data set as far as its samples go; where they are kept changes none of them."""
    if not isinstance(part, Mapping):
        return part
    return {key: value for key, value in part.items() if key != "cache_gb"}


def _flat(table: Mapping[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in table.items():
        if key == "data" and isinstance(value, list | tuple):
            flat[key] = json.dumps([_without_cache(part) for part in value])
        elif isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": text for inner, text in _flat(value).items()}
        else:
            flat[key] = json.dumps(value)
    return flat
