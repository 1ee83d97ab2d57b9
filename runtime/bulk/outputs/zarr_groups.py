"""Results as Zarr (format 3): one store a run, in it a group a shard, in that a group for each size of its pictures.

    results.zarr/zarr.json                    the store's root, written before the first shard and never changed
    results.zarr/shard-000012/zarr.json       written last: a shard that is not whole is no group
    results.zarr/shard-000012/480x640/depth   uint16 [picture, y, x] or [picture, y, x, channel]: the codes of png16
                                      index, path, name   int64 and texts [picture]: whose results they are
                                      pts_s, stamp_ns     float64, int64 [picture]: of videos and logs; NaN, -1: none

An array's length would have to be known before the first shard is done, and its pictures would all need one size;
so an array holds what one shard has of one size, and no two shards share a file that changes. An array is one file
with a chunk a picture in it (Zarr's sharding). Scale, offset and the unknown code are attributes by the names of the
CF conventions, so that xarray gives numbers, and NaN where there is none.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.packages import require
from e2e_deploy.runtime.bulk.outputs.encoded import EncodedPicture, Files, Made
from e2e_deploy.runtime.bulk.report import plain_text
from e2e_deploy.runtime.sinks.sink import UNKNOWN, SixteenBits, about

STORE = "results.zarr"
MAX_STAMP_NS = 2**63 - 1
_META = "zarr.json"
ROOT: Files = [
    (f"{STORE}/{_META}", b'{"zarr_format": 3, "node_type": "group", "attributes": {}}\n')
]

Codes = tuple[npt.NDArray[np.uint16], dict[str, Any]]
"""One result in codes, and the attributes of its array."""


def encode(made: Made) -> Codes:
    """A result's codes as png16 stores them, and what is told of them, the same for every picture of a bundle."""
    told = about(made.manifest, made.frame, made.values, {}, made.kind)
    bits = SixteenBits(*told["range"])
    attributes = {name: value for name, value in told.items() if name not in ("source", "size")}
    attributes |= {
        "value": "stored * scale_factor + add_offset, where stored is not _FillValue",
        "scale_factor": bits.scale,
        "add_offset": bits.offset,
        "_FillValue": UNKNOWN,
    }
    return bits.store(made.values), attributes


def files(shard: int, pictures: list[EncodedPicture]) -> Files:
    """The files of a shard's group, its own metadata last."""
    zarr = require("zarr", "bulk")
    kept: dict[str, Any] = {}
    root = zarr.create_group(zarr.storage.MemoryStore(kept), zarr_format=3)
    group = root.create_group(f"shard-{shard:06d}")
    sizes: dict[tuple[int, int], list[EncodedPicture]] = {}
    for picture in pictures:
        sizes.setdefault(picture.hw, []).append(picture)
    for (height, width), same in sorted(sizes.items()):
        _fill(group, f"{height}x{width}", same)
    made = [(f"{STORE}/{name}", data.to_bytes()) for name, data in kept.items() if name != _META]
    return sorted(made, key=_when)


def _fill(group: Any, size: str, pictures: list[EncodedPicture]) -> None:
    items = [picture.item for picture in pictures]
    known: dict[str, npt.NDArray[Any]] = {
        "index": np.array([item.index for item in items], np.int64),
        "path": np.array([plain_text(item.shown) for item in items], object),
        "name": np.array([plain_text(item.stem) for item in items], object),
    }
    times = [picture.frame.pts_s for picture in pictures]
    if any(time is not None for time in times):
        known["pts_s"] = np.array([np.nan if t is None else t for t in times], np.float64)
    stamps = [picture.frame.stamp_ns for picture in pictures]
    if any(stamp is not None for stamp in stamps):
        # A log's stamps have 64 bits without a sign, and one beyond the year 2262 is none.
        known["stamp_ns"] = np.array(
            [-1 if s is None or s > MAX_STAMP_NS else s for s in stamps], np.int64
        )
    # xarray takes these for what rows are known by, and not for more results.
    inner = group.create_group(size, attributes={"coordinates": " ".join(known)})
    for name, values in known.items():
        _add(inner, name, values)
    for output in pictures[0].results:
        stack = np.stack([picture.results[output][0] for picture in pictures])
        _add(inner, output, stack, pictures[0].results[output][1])


def _add(
    group: Any, name: str, values: npt.NDArray[Any], attributes: dict[str, Any] | None = None
) -> None:
    given: dict[str, Any] = {}
    if attributes is not None:
        codecs = require("zarr.codecs", "bulk")
        given = {
            "chunks": (1, *values.shape[1:]),
            "shards": values.shape,
            "compressors": codecs.BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
            "fill_value": UNKNOWN,
            "attributes": attributes,
        }
    names = ("picture", "y", "x", "channel")[: values.ndim]
    dtype = str if values.dtype == object else values.dtype
    array = group.create_array(
        name, shape=values.shape, dtype=dtype, dimension_names=names, **given
    )
    array[...] = values


def _when(file: tuple[str, bytes]) -> tuple[bool, int, str]:
    """Data first, then metadata from the innermost to the group's own."""
    name = file[0]
    return name.endswith(f"/{_META}"), -name.count("/"), name
