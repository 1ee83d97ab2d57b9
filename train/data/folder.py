"""The folder data set: the one layout that training, evaluation and the renderer share.

    <root>/dataset.toml
    <root>/<split>/rgb/<stem>.png                   8-bit RGB
    <root>/<split>/depth/<stem>.png|.npy|.exr       one kind per data set
    <root>/<split>/normals/<stem>.png|.npy|.exr     optional
    <root>/<split>/mask/<stem>.png|.npy             optional: segments, each in a colour of its own
    <root>/<split>/matte/<stem>.png|.npy            optional: opacity of the foreground

or, packed (``pack_data``), the same files in tars, WebDataset's shards::

    <root>/<split>/shards/<number>.tar              <stem>.rgb.png, <stem>.depth.png, ...

``dataset.toml`` (an unknown key is an error; all mistakes are reported at once)::

    name = "rendered"

    [depth]                 # may be left out of a set that has another truth
    format = "png16"        # png16 | npy | exr
    unit_m = 0.001          # metres per stored unit: 0.001 for millimetres, 1.0 for metres
    min_m = 0.05            # optional valid range, both ends excluded
    max_m = 65.0
    kind = "z"              # z: along the optical axis | ray: distance to the camera centre

    [normals]               # optional
    format = "png8"         # png8 | png16 | npy | exr; png holds (n + 1) / 2 in the type's range
    axes = "right-up-back"  # x right, y up, z toward the viewer | right-down-front (OpenCV)

    [mask]                  # optional; [H, W, 3], for segmentation
    format = "png8"         # png8 | png16 | npy; png holds [0, 1] in the type's range

    [matte]                 # optional; [H, W], for matting
    format = "png8"

    [camera]                # optional; one camera for the whole set, in pixels of the stored image
    fx = 300.0
    fy = 300.0
    cx = 160.0
    cy = 128.0

    [split]                 # optional: split = folder; default train, val, test as present
    val = "validation"

A packed set may also lie at an address, ``s3://bucket/prefix`` or ``https://host/path``.
``kind = "ray"`` needs ``[camera]``. Invalid depth: 0, negative, NaN, infinite, or 65535 in a 16-bit
PNG (saturated). Unknown normals: the zero vector (black or mid grey in a PNG), NaN, infinite; all other
lengths are normalised. Unknown in masks and mattes: NaN. Each truth counts by itself: normals where depth is unknown,
depth where normals are.
Knows: this layout. Does not know: training sizes, tensors.
"""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import DataError, UsageError
from e2e_deploy.names import TaskName
from e2e_deploy.system.records import MAX_TOML_BYTES
from e2e_deploy.train.data.encoding import decode_depth, decode_normals, decode_values
from e2e_deploy.train.data.files import (
    decode_npy,
    decode_picture,
    decode_rgb,
    read_array,
    read_bytes,
)
from e2e_deploy.train.data.folder_spec import (
    DEFAULT_SPLITS,
    SPEC_FILE,
    FolderSpec,
    load_spec,
    parse_spec,
)
from e2e_deploy.train.data.sample import TRUTHS, Sample, ray_to_planar, valid_depth
from e2e_deploy.train.shards.fetching import Address, check_address, fetch, is_address
from e2e_deploy.train.shards.remote import RemoteShards
from e2e_deploy.train.shards.tars import FOLDER as SHARDS
from e2e_deploy.train.shards.tars import Shards

SUFFIX = {"png8": ".png", "png16": ".png", "npy": ".npy", "exr": ".exr"}


def split_folders(root: Path, spec: FolderSpec) -> dict[str, Path]:
    """Split name to folder, for the splits that the spec names or, without names, that exist.

    Raises:
        DataError: a named folder is missing, or there is no split at all.
    """
    names = spec.splits or {name: name for name in DEFAULT_SPLITS if (root / name).is_dir()}
    folders = {split: root / folder for split, folder in names.items()}
    missing = [str(folder) for folder in folders.values() if not folder.is_dir()]
    if missing or not folders:
        raise DataError(
            f"{root}: no split folder {', '.join(missing) or ' or '.join(DEFAULT_SPLITS)}"
        )
    return folders


def split_folder(root: Path, spec: FolderSpec, split: str) -> Path:
    """The folder of one split; errors as ``split_folders``, or UsageError when there is no such split."""
    folders = split_folders(root, spec)
    if split not in folders:
        raise UsageError(f"{root} has no split {split!r}; it has {', '.join(sorted(folders))}")
    return folders[split]


class FolderDataset:
    """One split of a folder data set, sorted by stem.

    Args:
        root: the data set: a folder, or the address of a packed one.
        split: its part.
        task: read the truth of this task alone, and need no other; None reads and needs all that the set stores.
        cache_gb: of a set at an address, how many GB are kept on this machine's disk; None: 20.

    Attributes:
        stems: the complete samples, in reading order.
        missing: files that should exist because one of their pair does.
        has_normals: whether the set stores normals.
        is_packed: whether the files are in tars.
        suffixes: of rgb and of every truth that is read.
        left_out: number of samples that can never be read, by reason; a split that shrank shows here.
        spec: what ``dataset.toml`` says.

    Raises:
        DataError: the spec is wrong, the split does not exist, or it holds no complete sample.
        UsageError: the data set has no such split, or stores no truth for the task, or the address holds a password.
        E2EDeployError: nobody answers at the address.
    """

    def __init__(
        self,
        root: Path | str,
        split: str = "train",
        *,
        task: TaskName | None = None,
        cache_gb: float | None = None,
    ) -> None:
        self.split = split
        self._shards: Shards | RemoteShards | None = None
        if isinstance(root, str) and is_address(root):
            address = root.rstrip("/")
            check_address(address)
            self.root: Path = Address(address)
            file = f"{address}/{SPEC_FILE}"
            self.spec = parse_spec(fetch(file, limit=MAX_TOML_BYTES), Address(file))
            if split not in (self.spec.splits or (split,)):
                raise UsageError(
                    f"{root} has no split {split!r}; it has {', '.join(sorted(self.spec.splits))}"
                )
            folder = self.spec.splits.get(split, split)
            self.folder: Path = self.root / folder
            self._shards = RemoteShards(f"{address}/{folder}/{SHARDS}", cache_gb=cache_gb)
        else:
            self.root = Path(root)
            self.spec = load_spec(self.root)
            self.folder = split_folder(self.root, self.spec, split)
            shards = self.folder / SHARDS
            if shards.is_dir() and not (self.folder / "rgb").exists():
                self._shards = Shards(shards)
        self.has_normals = self.spec.normals_format is not None
        self.is_packed = self._shards is not None
        self.suffixes = {"rgb": ".png"} | self._stored(task)
        found = {kind: self._list(kind) for kind in self.suffixes}
        every = set[str]().union(*found.values())
        complete = set.intersection(*found.values())
        self.stems = sorted(complete)
        self.missing = [
            str(self.file(kind, stem))
            for stem in sorted(every - complete)
            for kind in self.suffixes
            if stem not in found[kind]
        ]
        self.left_out = dict(
            Counter(
                "picture missing" if stem not in found["rgb"] else "truth file missing"
                for stem in every - complete
            )
        )
        if not self.stems:
            raise DataError(f"{self.folder}: no sample with {', '.join(self.suffixes)} of one stem")

    def _stored(self, task: TaskName | None) -> dict[str, str]:
        """Suffix of every truth that is read."""
        spec = self.spec
        formats: dict[str, str | None] = {
            "depth": spec.depth_format,
            "normals": spec.normals_format,
            "mask": spec.mask_format,
            "matte": spec.matte_format,
        }
        stored = {kind: SUFFIX[name] for kind, name in formats.items() if name is not None}
        if task is None:
            return stored
        needed = TRUTHS.get(task, (task,))
        for kind in needed:
            if kind not in stored:
                raise UsageError(f"{self.root} has no {kind}, which this task needs")
        return {kind: stored[kind] for kind in needed}

    def __len__(self) -> int:
        return len(self.stems)

    def left_out_sentence(self) -> str | None:
        """How many samples of the split cannot be used, why, and which is the first; None when all can."""
        if not self.left_out:
            return None
        counts = ", ".join(f"{reason}: {count}" for reason, count in self.left_out.items())
        num = sum(self.left_out.values())
        return (
            f"{self.root} ({self.split}): {num} of {num + len(self)} samples are left out "
            f"({counts}; the first: {self.missing[0]})"
        )

    def fingerprint(self) -> str:
        """SHA-256 of what the set is: ``dataset.toml`` and the name and size of every file that is read."""
        # Without what older versions did not know of, so that their runs go on.
        lines = [repr(self.spec).replace("mask_format=None, matte_format=None, ", "")]
        for kind in self.suffixes:
            files = ((stem, self.file(kind, stem)) for stem in self.stems)
            lines += [f"{kind}/{path.name} {self._size(kind, stem)}" for stem, path in files]
        return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()

    def file(self, kind: str, stem: str) -> Path:
        """Where ``kind`` (rgb or a truth) of ``stem`` lies, or would if the set were not packed."""
        return self.folder / kind / (stem + self.suffixes[kind])

    def read(self, index: int) -> Sample:
        """Read sample ``index``; nothing in it may be known (``Sample.known``).

        Raises:
            DataError: a file is missing or damaged, or sizes or types do not fit.
        """
        stem, rgb = self.stems[index], self.read_rgb(index)
        depth_m, normals = np.zeros(rgb.shape[:2], np.float32), None
        if "depth" in self.suffixes:
            depth_m = self._read_depth(stem, rgb.shape[:2])
        if "normals" in self.suffixes:
            normals = self._read_normals(stem, rgb.shape[:2])
        pictures = {
            kind: self._read_values(stem, kind, (*rgb.shape[:2], *channels))
            for kind, channels in (("mask", (3,)), ("matte", ()))
            if kind in self.suffixes
        }
        valid = valid_depth(depth_m, self.spec.min_m, self.spec.max_m)
        return Sample(
            rgb=rgb,
            depth_m=np.where(valid, depth_m, np.float32(0)),
            normals=normals,
            valid=valid,
            path=str(self.file("rgb", stem)),
            mask=pictures.get("mask"),
            matte=pictures.get("matte"),
        )

    def read_rgb(self, index: int) -> npt.NDArray[np.uint8]:
        """The picture of sample ``index``, uint8 RGB [H, W, 3]; its truths stay unread.

        Raises:
            DataError: it is missing or damaged.
        """
        stem = self.stems[index]
        return decode_rgb(self.file("rgb", stem), self._content("rgb", stem))

    def _list(self, kind: str) -> set[str]:
        suffix = self.suffixes[kind]
        if self._shards is not None:
            return self._shards.names(f"{kind}{suffix}")
        return {
            path.name.removesuffix(suffix)
            for path in (self.folder / kind).glob(f"*{suffix}")
            if not path.name.startswith(".")
        }

    def _size(self, kind: str, stem: str) -> int:
        """Bytes of a file."""
        if self._shards is not None:
            return self._shards.size(f"{stem}.{kind}{self.suffixes[kind]}")
        return self.file(kind, stem).stat().st_size

    def _picture(self, kind: str, stem: str) -> npt.NDArray[Any]:
        """What is stored of a sample: a picture, or an array of numbers."""
        path = self.file(kind, stem)
        if path.suffix == ".png":
            return decode_picture(path, self._content(kind, stem))
        if self._shards is None:
            return read_array(path)
        if path.suffix == ".exr":
            raise DataError(f"{path}: EXR in a tar is not read; npy and png16 are")
        return decode_npy(path, self._content(kind, stem))

    def _content(self, kind: str, stem: str) -> bytes:
        path = self.file(kind, stem)
        if self._shards is None:
            return read_bytes(path)
        return self._shards.read(f"{stem}.{kind}{path.suffix}")

    def _read_depth(self, stem: str, size: tuple[int, ...]) -> npt.NDArray[np.float32]:
        path, stored = self.file("depth", stem), self._picture("depth", stem)
        if stored.ndim == 3 and path.suffix == ".exr":
            stored = stored[..., 0]
        if path.suffix == ".png" and stored.dtype != np.uint16:
            raise DataError(f"{path}: expected a 16-bit PNG, got {stored.dtype}")
        if stored.shape != size:
            raise DataError(f"{path}: depth is {stored.shape}, its picture is {size}")
        depth_m = decode_depth(stored, self.spec.unit_m)
        if self.spec.depth_kind == "ray" and self.spec.camera is not None:
            depth_m = ray_to_planar(depth_m, self.spec.camera)
        return depth_m

    def _read_normals(self, stem: str, size: tuple[int, ...]) -> npt.NDArray[np.float32]:
        path, stored = self.file("normals", stem), self._picture("normals", stem)
        expected = {"png8": np.uint8, "png16": np.uint16}.get(str(self.spec.normals_format))
        if expected is not None and stored.dtype != expected:
            raise DataError(f"{path}: expected {self.spec.normals_format}, got {stored.dtype}")
        if stored.shape != (*size, 3):
            raise DataError(f"{path}: normals are {stored.shape}, expected {(*size, 3)}")
        return decode_normals(stored, self.spec.normals_axes)

    def _read_values(self, stem: str, kind: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """A mask or matte."""
        path, stored = self.file(kind, stem), self._picture(kind, stem)
        kinds = {"mask": self.spec.mask_format, "matte": self.spec.matte_format}
        expected = {"png8": np.uint8, "png16": np.uint16}.get(str(kinds[kind]))
        if expected is not None and stored.dtype != expected:
            raise DataError(f"{path}: expected {kinds[kind]}, got {stored.dtype}")
        if stored.shape != shape:
            raise DataError(f"{path}: the {kind} is {stored.shape}, expected {shape}")
        try:
            return decode_values(stored)
        except ValueError as error:
            raise DataError(f"{path}: {error}") from None
