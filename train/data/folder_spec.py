"""The ``dataset.toml`` of a folder data set, checked key by key.

Knows: which keys exist, their types and how they depend on each other (the meaning of each is in
``folder``). Does not know: the pictures.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Literal

from e2e_deploy.errors import DataError
from e2e_deploy.system.files import read_bytes
from e2e_deploy.system.records import MAX_TOML_BYTES, Limits, parse_toml, read_record
from e2e_deploy.train.data.encoding import Axes
from e2e_deploy.train.data.files import write_bytes
from e2e_deploy.train.data.sample import Camera

SPEC_FILE = "dataset.toml"
DEFAULT_SPLITS = ("train", "val", "test")

DepthFormat = Literal["png16", "npy", "exr"]
NormalsFormat = Literal["png8", "png16", "npy", "exr"]
PictureFormat = Literal["png8", "png16", "npy"]
DepthKind = Literal["z", "ray"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderSpec:
    """What ``dataset.toml`` says; see ``folder`` for the meaning of each key."""

    name: str
    depth_format: DepthFormat | None = None
    """None: the set has no depth, as with the formats below."""
    unit_m: float = 1.0
    min_m: float = 0.0
    max_m: float = math.inf
    depth_kind: DepthKind = "z"
    normals_format: NormalsFormat | None = None
    normals_axes: Axes = "right-up-back"
    mask_format: PictureFormat | None = None
    matte_format: PictureFormat | None = None
    camera: Camera | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    """Split name to folder name; empty means train, val and test as present."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Depth:
    format: DepthFormat
    unit_m: Annotated[float, Limits(0, 1e6, open_low=True)]
    min_m: Annotated[float, Limits(0)] = 0.0
    max_m: Annotated[float, Limits(0, math.inf, open_low=True)] = math.inf
    kind: DepthKind = "z"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Normals:
    format: NormalsFormat
    axes: Axes = "right-up-back"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Picture:
    format: PictureFormat


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tables:
    """The file as it is laid out."""

    name: str
    depth: _Depth | None = None
    normals: _Normals | None = None
    mask: _Picture | None = None
    matte: _Picture | None = None
    camera: Camera | None = None
    split: dict[str, str] = field(default_factory=dict)


def load_spec(root: Path) -> FolderSpec:
    """Read and check ``<root>/dataset.toml``.

    Raises:
        DataError: missing, not TOML, or wrong; all mistakes are listed at once.
    """
    path = root / SPEC_FILE
    try:
        content = read_bytes(path, MAX_TOML_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"{root} is no folder data set: it has no {SPEC_FILE}; docs/train.md says under Data what belongs there"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return parse_spec(content, path)


def parse_spec(content: bytes, path: Path) -> FolderSpec:
    """As ``load_spec``, of the ``content`` that messages call ``path``."""
    try:
        table = parse_toml(content)
    except ValueError as error:
        raise DataError(f"{path}: not valid TOML ({error})") from error
    tables, mistakes = read_record(_Tables, table)
    if tables is not None:
        mistakes = _contradictions(tables)
    if tables is None or mistakes:
        raise DataError(f"{path}: " + "; ".join(mistakes))
    depth, normals = tables.depth, tables.normals
    spec = FolderSpec(name=tables.name, camera=tables.camera, splits=tables.split)
    if depth is not None:
        spec = replace(
            spec,
            depth_format=depth.format,
            unit_m=depth.unit_m,
            min_m=depth.min_m,
            max_m=depth.max_m,
            depth_kind=depth.kind,
        )
    if normals is not None:
        spec = replace(spec, normals_format=normals.format, normals_axes=normals.axes)
    return replace(
        spec,
        mask_format=None if tables.mask is None else tables.mask.format,
        matte_format=None if tables.matte is None else tables.matte.format,
    )


def save_spec(root: Path, spec: FolderSpec) -> None:
    """Write ``<root>/dataset.toml`` so that ``load_spec`` gives ``spec`` back."""
    lines = [f"name = {json.dumps(spec.name)}"]
    if spec.depth_format:
        lines += ["", "[depth]", f'format = "{spec.depth_format}"']
        lines += [f"unit_m = {float(spec.unit_m)!r}", f"min_m = {float(spec.min_m)!r}"]
        lines += [f"max_m = {float(spec.max_m)!r}", f'kind = "{spec.depth_kind}"']
    if spec.normals_format:
        lines += ["", "[normals]", f'format = "{spec.normals_format}"']
        lines += [f'axes = "{spec.normals_axes}"']
    for kind, picture_format in (("mask", spec.mask_format), ("matte", spec.matte_format)):
        if picture_format:
            lines += ["", f"[{kind}]", f'format = "{picture_format}"']
    if spec.camera:
        lines += ["", "[camera]"]
        lines += [
            f"{key.name} = {float(getattr(spec.camera, key.name))!r}" for key in fields(Camera)
        ]
    if spec.splits:
        lines += [
            "",
            "[split]",
            *(f"{json.dumps(k)} = {json.dumps(v)}" for k, v in spec.splits.items()),
        ]
    write_bytes(root / SPEC_FILE, ("\n".join(lines) + "\n").encode())


def _contradictions(tables: _Tables) -> list[str]:
    lines, depth = [], tables.depth
    if not (depth or tables.normals or tables.mask or tables.matte):
        lines.append(
            "it describes no truth; expected a table [depth], [normals], [mask] or [matte]"
        )
    if depth is not None and not depth.min_m < depth.max_m:
        lines.append(f"depth.min_m {depth.min_m:g} must be below depth.max_m {depth.max_m:g}")
    if depth is not None and depth.kind == "ray" and tables.camera is None:
        lines.append('depth.kind = "ray" needs the table [camera]')
    lines += [
        f"split.{name} is {folder!r}; expected the name of a folder inside the data set"
        for name, folder in tables.split.items()
        if folder in (".", "..") or any(c in folder for c in "/\\")
    ]
    return lines
