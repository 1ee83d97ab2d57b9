"""The ``dataset.toml`` of a folder data set, checked key by key.

Knows: which keys exist, their types and how they depend on each other (the meaning of each is in
``folder``). Does not know: the pictures.
"""

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from e2e_deploy.errors import DataError
from e2e_deploy.train.encoding import Axes
from e2e_deploy.train.files import read_bytes, write_bytes
from e2e_deploy.train.sample import Camera

SPEC_FILE = "dataset.toml"
DEFAULT_SPLITS = ("train", "val", "test")

DepthFormat = Literal["png16", "npy", "exr"]
NormalsFormat = Literal["png8", "png16", "npy", "exr"]
DepthKind = Literal["z", "ray"]

# table -> key -> allowed words, or the type of a free value; [split] takes any key.
KEYS: Mapping[str, Mapping[str, tuple[str, ...] | type]] = {
    "": {"name": str},
    "depth": {
        "format": ("png16", "npy", "exr"),
        "unit_m": float,
        "min_m": float,
        "max_m": float,
        "kind": ("z", "ray"),
    },
    "normals": {
        "format": ("png8", "png16", "npy", "exr"),
        "axes": ("right-up-back", "right-down-front"),
    },
    "camera": {"fx": float, "fy": float, "cx": float, "cy": float},
}
REQUIRED = {
    "": ("name",),
    "depth": ("format", "unit_m"),
    "normals": ("format",),
    "camera": ("fx", "fy", "cx", "cy"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderSpec:
    """What ``dataset.toml`` says; see ``folder`` for the meaning of each key."""

    name: str
    depth_format: DepthFormat
    unit_m: float
    min_m: float = 0.0
    max_m: float = math.inf
    depth_kind: DepthKind = "z"
    normals_format: NormalsFormat | None = None
    normals_axes: Axes = "right-up-back"
    camera: Camera | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    """Split name to folder name; empty means train, val and test as present."""


def load_spec(root: Path) -> FolderSpec:
    """Read and check ``<root>/dataset.toml``.

    Raises:
        DataError: missing, not TOML, or wrong; all mistakes are listed at once.
    """
    path = root / SPEC_FILE
    try:
        tables = tomllib.loads(read_bytes(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid TOML ({error})") from error
    top = {key: value for key, value in tables.items() if key not in (*KEYS, "split")}
    given = {"": top, **{name: tables.get(name) for name in ("depth", "normals", "camera")}}
    mistakes = [line for table in KEYS for line in _mistakes(table, given[table])]
    split = tables.get("split", {})
    if not isinstance(split, dict) or any(not isinstance(v, str) for v in split.values()):
        mistakes.append('[split] must map split names to folder names, e.g. val = "validation"')
    elif any(Path(folder).name != folder for folder in split.values()):
        mistakes.append("[split] must name plain folders inside the data set")
    depth, normals = given["depth"], given["normals"]
    if not mistakes and isinstance(depth, dict):
        mistakes += _contradictions(depth, given["camera"])
    if mistakes:
        raise DataError(f"{path}: " + "; ".join(mistakes))
    depth, normals = cast(dict[str, Any], depth), cast(dict[str, Any], normals or {})
    return FolderSpec(
        name=tables["name"],
        depth_format=depth["format"],
        unit_m=float(depth["unit_m"]),
        min_m=float(depth.get("min_m", 0.0)),
        max_m=float(depth.get("max_m", math.inf)),
        depth_kind=depth.get("kind", "z"),
        normals_format=normals.get("format"),
        normals_axes=normals.get("axes", "right-up-back"),
        camera=Camera(**{k: float(v) for k, v in given["camera"].items()})
        if given["camera"]
        else None,
        splits=split,
    )


def save_spec(root: Path, spec: FolderSpec) -> None:
    """Write ``<root>/dataset.toml`` so that ``load_spec`` gives ``spec`` back."""
    lines = [f"name = {json.dumps(spec.name)}", "", "[depth]", f'format = "{spec.depth_format}"']
    lines += [f"unit_m = {float(spec.unit_m)!r}", f"min_m = {float(spec.min_m)!r}"]
    lines += [f"max_m = {float(spec.max_m)!r}", f'kind = "{spec.depth_kind}"']
    if spec.normals_format:
        lines += ["", "[normals]", f'format = "{spec.normals_format}"']
        lines += [f'axes = "{spec.normals_axes}"']
    if spec.camera:
        camera = spec.camera
        lines += ["", "[camera]"]
        lines += [f"{key} = {float(getattr(camera, key))!r}" for key in KEYS["camera"]]
    if spec.splits:
        lines += [
            "",
            "[split]",
            *(f"{json.dumps(k)} = {json.dumps(v)}" for k, v in spec.splits.items()),
        ]
    write_bytes(root / SPEC_FILE, ("\n".join(lines) + "\n").encode())


def _mistakes(table: str, values: object) -> list[str]:
    place = f"[{table}] " if table else ""
    if values is None:
        return [f"the table [{table}] is missing"] if table == "depth" else []
    if not isinstance(values, dict):
        return [f"{table} must be a table, got {values!r}"]
    known = KEYS[table]
    lines = [f"{place}unknown key {key!r}" for key in values if key not in known]
    lines += [f"{place}{key} is missing" for key in REQUIRED[table] if key not in values]
    for key, rule in known.items():
        value = values.get(key)
        if value is None:
            continue
        if isinstance(rule, tuple):
            if value not in rule:
                lines.append(f"{place}{key} must be one of {', '.join(rule)}, got {value!r}")
        elif rule is float:
            if isinstance(value, bool) or not isinstance(value, int | float):
                lines.append(f"{place}{key} must be a number, got {value!r}")
        elif not isinstance(value, rule):
            lines.append(f"{place}{key} must be a string, got {value!r}")
    return lines


def _contradictions(depth: Mapping[str, Any], camera: object) -> list[str]:
    lines = []
    if not 0 < depth["unit_m"] < math.inf:
        lines.append(f"[depth] unit_m must be positive, got {depth['unit_m']!r}")
    if not 0 <= depth.get("min_m", 0.0) < depth.get("max_m", math.inf):
        lines.append("[depth] min_m must be at least 0 and below max_m")
    if depth.get("kind") == "ray" and camera is None:
        lines.append('[depth] kind = "ray" needs the table [camera]')
    return lines
