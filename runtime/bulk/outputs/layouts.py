"""How encoded results lie in the output: files of every picture, or a file or group a shard. One table says which.

png16        <folder>/<name>_depth.png and .json, as ``run`` writes them
parquet      shard-000012.parquet: index, path, folder, name; of each result its PNG and its sidecar as a text
webdataset   shard-000012.tar: of each picture <index>.path.txt, <index>.depth.png, <index>.depth.json
zarr         results.zarr: a group a shard, in it a group a size; see ``zarr_groups.py``
"""

import io
import tarfile
from pathlib import Path

from e2e_deploy.names import BulkFormat
from e2e_deploy.packages import require
from e2e_deploy.runtime.bulk.outputs import zarr_groups
from e2e_deploy.runtime.bulk.outputs.encoded import EncodedPicture, Files, Layout, Made
from e2e_deploy.runtime.bulk.report import plain_text
from e2e_deploy.runtime.sinks.picture_sink import PictureSink
from e2e_deploy.runtime.sinks.sink import Painter


def _as_run(made: Made) -> dict[str, bytes]:
    """The PNG and the sidecar that ``run`` writes, by their names."""
    painter = Painter(made.manifest, "spectral", is_video=False, kind=made.kind)
    sink = PictureSink(
        Path(), made.manifest, ("png16",), painter, kind=made.kind, number=made.number
    )
    return sink.encoded(made.frame, made.values, {})


def _png16(shard: int, pictures: list[EncodedPicture]) -> Files:
    return [
        (f"{picture.item.folder}/{name}".lstrip("/"), data)
        for picture in pictures
        for files in picture.results.values()
        for name, data in files.items()
    ]


def _parquet(shard: int, pictures: list[EncodedPicture]) -> Files:
    pa, parquet = require("pyarrow", "bulk"), require("pyarrow.parquet", "bulk")
    items = [picture.item for picture in pictures]
    columns = {
        "index": pa.array([item.index for item in items], pa.int64()),
        "path": pa.array([plain_text(item.shown) for item in items], pa.string()),
        "folder": pa.array([plain_text(item.folder) for item in items], pa.string()),
        "name": pa.array([plain_text(item.stem) for item in items], pa.string()),
    }
    for output in pictures[0].results:
        files = [list(picture.results[output].values()) for picture in pictures]
        columns[output] = pa.array([png for png, _ in files], pa.large_binary())
        columns[f"{output}_sidecar"] = pa.array([told.decode() for _, told in files], pa.string())
    file = io.BytesIO()
    # PNGs are compressed already.
    parquet.write_table(pa.table(columns), file, compression="none")
    return [(f"shard-{shard:06d}.parquet", file.getvalue())]


def _webdataset(shard: int, pictures: list[EncodedPicture]) -> Files:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for picture in pictures:
            key = f"{picture.item.index:09d}"
            _add(tar, f"{key}.path.txt", plain_text(picture.item.shown).encode())
            for output, files in picture.results.items():
                png, told = files.values()
                _add(tar, f"{key}.{output}.png", png)
                _add(tar, f"{key}.{output}.json", told)
    return [(f"shard-{shard:06d}.tar", file.getvalue())]


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # of nobody, in 1970: the same bytes on every day
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


LAYOUTS: dict[BulkFormat, Layout] = {
    "png16": Layout(_as_run, _png16),
    "parquet": Layout(_as_run, _parquet),
    "webdataset": Layout(_as_run, _webdataset),
    "zarr": Layout(zarr_groups.encode, zarr_groups.files, zarr_groups.ROOT),
}
