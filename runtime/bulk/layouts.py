"""How encoded results lie on the disk: files of every picture, or one file a shard. One table says which.

    png16        <folder>/<name>_depth.png and .json, as ``run`` writes them
    parquet      shard-000012.parquet: index, path, folder, name; of each result its PNG and its sidecar as a text
    webdataset   shard-000012.tar: of each picture <index>.path.txt, <index>.depth.png, <index>.depth.json

A shard's file has the same bytes whenever it is written.
"""

import io
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from e2e_deploy.names import BulkFormat
from e2e_deploy.packages import require
from e2e_deploy.runtime.bulk.inputs.item import BulkItem
from e2e_deploy.runtime.bulk.report import plain_text
from e2e_deploy.system.files import whole_file


@dataclass(frozen=True)
class EncodedPicture:
    """Of one picture the files of each result by their names, the sidecar last.

    Attributes:
        results: by the name of the output, such as depth.
    """

    item: BulkItem
    results: dict[str, dict[str, bytes]]


def _png16(out: Path, shard: int, pictures: list[EncodedPicture]) -> list[Path]:
    paths = []
    for picture in pictures:
        for files in picture.results.values():
            for name, data in files.items():
                path = out / picture.item.folder / name
                with whole_file(path) as partial:
                    partial.write_bytes(data)
                paths.append(path)
    return paths


def _parquet(out: Path, shard: int, pictures: list[EncodedPicture]) -> list[Path]:
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
    path = out / f"shard-{shard:06d}.parquet"
    with whole_file(path) as partial:
        # PNGs are compressed already.
        parquet.write_table(pa.table(columns), partial, compression="none")
    return [path]


def _webdataset(out: Path, shard: int, pictures: list[EncodedPicture]) -> list[Path]:
    path = out / f"shard-{shard:06d}.tar"
    with whole_file(path) as partial, tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
        for picture in pictures:
            key = f"{picture.item.index:09d}"
            _add(tar, f"{key}.path.txt", plain_text(picture.item.shown).encode())
            for output, files in picture.results.items():
                png, told = files.values()
                _add(tar, f"{key}.{output}.png", png)
                _add(tar, f"{key}.{output}.json", told)
    return [path]


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # of nobody, in 1970: the same bytes on every day
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


LAYOUTS: dict[BulkFormat, Callable[[Path, int, list[EncodedPicture]], list[Path]]] = {
    "png16": _png16,
    "parquet": _parquet,
    "webdataset": _webdataset,
}


def flush(files: list[Path]) -> None:
    """See that files, and their names, outlive a power cut: what the ledger names must be there."""
    for path in [*files, *{path.parent for path in files}]:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
