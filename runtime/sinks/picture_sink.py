"""Files of each frame in a folder. One table says which formats there are; each encodes to bytes."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle.manifest import Manifest
from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.kinds import Kind
from e2e_deploy.names import PictureFormat
from e2e_deploy.runtime.backends.layout import Result
from e2e_deploy.runtime.camera.lens import Camera
from e2e_deploy.runtime.sinks.overwriting import told_files
from e2e_deploy.runtime.sinks.sink import Painter, SixteenBits, about
from e2e_deploy.runtime.sources.picture_source import short_name
from e2e_deploy.runtime.sources.source import SourceFrame
from e2e_deploy.runtime.steps.step import Facts
from e2e_deploy.system.files import whole_file
from e2e_deploy.system.json_files import to_json
from e2e_deploy.system.opencv import cv2


@dataclass(frozen=True)
class Picture:
    """All that an encoder may need: a result, what is told about it, and the sink's painter and camera."""

    frame: SourceFrame
    kind: Kind
    result: Result
    told: dict[str, Any]
    facts: Facts
    painter: Painter
    intrinsics: Camera | None


Encoded = tuple[bytes, dict[str, Any] | None]
"""The file, and its entry of the sidecar; None for pictures that hold no numbers."""


def _png(bgr_or_grey: npt.NDArray[Any]) -> bytes:
    ok, data = cv2.imencode(".png", bgr_or_grey)
    if not ok:
        raise E2EDeployError("a result could not be encoded as PNG")
    return data.tobytes()


def _colours(kind: Kind) -> str:
    return "R, G, B = x, y, z" if kind.form == "vectors" else "R, G, B"


def _png16(picture: Picture) -> Encoded:
    bits = SixteenBits(*picture.told["range"])
    stored = bits.store(picture.result)
    single = stored.ndim == 2
    told = bits.told() | {"channels": "one" if single else _colours(picture.kind)}
    return _png(stored if single else stored[..., ::-1]), told


def _npy(picture: Picture) -> Encoded:
    file = io.BytesIO()
    np.save(file, picture.result)
    return file.getvalue(), {"dtype": "float32"}


def _npz(picture: Picture) -> Encoded:
    file = io.BytesIO()
    key = picture.kind.output
    np.savez_compressed(file, **{key: picture.result})  # type: ignore[arg-type]
    return file.getvalue(), {"dtype": "float32", "key": key}


def _exr(picture: Picture) -> Encoded:
    # FFmpeg's encoder, because OpenCV's wheels have none any more.
    single = picture.result.ndim == 2
    encoder = av.CodecContext.create("exr", "w")
    encoder.height, encoder.width = picture.result.shape[:2]
    pixels = "grayf32le" if single else "gbrpf32le"
    encoder.pix_fmt = pixels
    encoder.time_base = Fraction(1, 25)  # a picture has none, the encoder asks for one
    encoder.options = {"compression": "zip16", "format": "float"}
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture.result), format=pixels)
    packets = [*encoder.encode(frame), *encoder.encode()]
    told = {"dtype": "float32", "channels": "Y" if single else _colours(picture.kind)}
    return b"".join(bytes(packet) for packet in packets), told


def _ply(picture: Picture) -> Encoded:
    """A binary point cloud in optical axes, with the frame's colours; pixels without depth are left out."""
    if picture.intrinsics is None or not picture.told["metric"]:
        raise UsageError(
            "a point cloud needs the camera's intrinsics and metric depth: affine-invariant depth has an unknown "
            "shift, which bends every surface; give `intrinsics` with `metric_points` or `camera_height_m`"
        )
    depth = picture.result
    v, u = np.nonzero(np.isfinite(depth))
    xyz = picture.intrinsics.rays(u, v) * depth[v, u, None]
    seen = np.isfinite(xyz).all(axis=-1)  # not beyond what a lens' formula holds for
    xyz, u, v = xyz[seen], u[seen], v[seen]
    vertices = np.empty(len(v), dtype=[("xyz", "<f4", 3), ("rgb", "u1", 3)])
    vertices["xyz"], vertices["rgb"] = xyz, picture.frame.rgb[v, u]
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(v)}"]
    lines += [f"property float {name}" for name in "xyz"]
    lines += [f"property uchar {name}" for name in ("red", "green", "blue")]
    header = "\n".join([*lines, "end_header", ""]).encode()
    axes = "x right, y down, z forward, in metres"
    return header + vertices.tobytes(), {"points": len(v), "axes": axes}


def _color(picture: Picture) -> Encoded:
    return _png(picture.painter(picture.result, picture.facts)[..., ::-1]), None


# name: (what follows the stem, encoder)
FORMATS: dict[PictureFormat, tuple[str, Callable[[Picture], Encoded]]] = {
    "png16": (".png", _png16),
    "npy": (".npy", _npy),
    "npz": (".npz", _npz),
    "exr": (".exr", _exr),
    "ply": (".ply", _ply),
    "color": ("_color.png", _color),
}


MAX_LISTED = (
    10_000  # files that a sink names when it is closed; a camera may fill a folder for days
)


def frame_stem(name: str, index: int, *, number: bool) -> str:
    """What the names of a frame's files begin with; with a number the name is cut, for a disk to take both."""
    return f"{short_name(name)}_{index:06d}" if number else name


def file_names(name: str, kind: Kind, formats: Sequence[PictureFormat]) -> list[str]:
    """The files of one result of a frame whose stem is ``name``, the sidecar last."""
    stem = f"{name}_{kind.output}"
    return [*(f"{stem}{FORMATS[known][0]}" for known in formats), f"{stem}.json"]


def formats_for(kind: Kind, formats: Sequence[PictureFormat]) -> tuple[PictureFormat, ...]:
    """Those that hold results of ``kind``: only a distance can be a point cloud."""
    return tuple(name for name in formats if name != "ply" or kind.form == "distance")


class PictureSink:
    """Files of each frame in a folder: <name>_depth.png and so on, and one .json beside those that hold numbers.

    Args:
        folder: made if it does not exist.
        manifest: the bundle's, for the sidecar.
        formats: of FORMATS.
        painter: colours the results.
        kind: of the results; None is the bundle's one kind.
        number: put the frame's index into the names (videos and cameras).
        file: the name of the one file of the one frame, of the one format; its sidecar is <file>.json.
        intrinsics: of the frames; needed for ply.
    """

    on_main_thread = False

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        formats: tuple[PictureFormat, ...],
        painter: Painter,
        *,
        kind: Kind | None = None,
        number: bool,
        file: str | None = None,
        intrinsics: Camera | None = None,
    ) -> None:
        self.name = str(folder if file is None else folder / file)
        self._folder, self._manifest, self._formats = folder, manifest, formats
        self._kind = manifest.kinds[0] if kind is None else kind
        self._painter, self._number, self._intrinsics = painter, number, intrinsics
        self._file = file
        self._written: list[Path] = []

    def write(self, frame: SourceFrame, result: Result, facts: Facts) -> None:
        """Write the files of one frame.

        Raises:
            UsageError: a point cloud of depth that is not metric.
            E2EDeployError: a file cannot be written.
        """
        for name, data in self.encoded(frame, result, facts).items():
            self._store(name, data)

    def encoded(self, frame: SourceFrame, result: Result, facts: Facts) -> dict[str, bytes]:
        """The files of one frame by their names, the sidecar last; nothing is written.

        Raises:
            UsageError: a point cloud of depth that is not metric.
        """
        stem = frame_stem(frame.name, frame.index, number=self._number)
        *names, sidecar = file_names(stem, self._kind, self._formats)
        if self._file is not None:
            names, sidecar = [self._file], f"{self._file}.json"
        told = about(self._manifest, frame, result, facts, self._kind)
        picture = Picture(frame, self._kind, result, told, facts, self._painter, self._intrinsics)
        entries: dict[str, Any] = {}
        files: dict[str, bytes] = {}
        for format_name, name in zip(self._formats, names, strict=True):
            files[name], entry = FORMATS[format_name][1](picture)
            if entry is not None:
                entries[format_name] = {"file": name, **entry}
        if entries:
            entries |= {} if self._number else told_files(files)
            files[sidecar] = (to_json(told | entries, indent=2) + "\n").encode()
        return files

    def _store(self, name: str, data: bytes) -> None:
        path = self._folder / name
        with whole_file(path) as partial:
            partial.write_bytes(data)
        if len(self._written) < MAX_LISTED:
            self._written.append(path)

    def close(self) -> list[Path]:
        """The files written, the first MAX_LISTED of them."""
        return self._written
