"""A folder data set copied into tars of some hundred MB: few large files, which file systems of clusters like better.

Knows: what is copied, into which tar. Does not know: how tars are read.
"""

import io
import tarfile
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e_deploy.errors import UsageError
from e2e_deploy.system.whole_folder import whole_folder
from e2e_deploy.train.data.files import read_bytes
from e2e_deploy.train.data.folder import FolderDataset, split_folders
from e2e_deploy.train.data.folder_spec import load_spec, save_spec
from e2e_deploy.train.shards.index import Entry, write_index
from e2e_deploy.train.shards.tars import FOLDER, Shards


@dataclass(frozen=True, kw_only=True, slots=True)
class PackReport:
    """What was packed."""

    num_samples: int
    num_shards: int
    num_bytes: int


def pack_data(
    root: str | Path,
    out: str | Path,
    *,
    shard_mb: int = 256,
    on_progress: Callable[[int, int], None] | None = None,
) -> PackReport:
    """Copy the folder data set ``root`` into ``out``, whose splits hold WebDataset shards instead of single files.

    ``out`` is a data set as ``root`` is: training, evaluation and checks read the same samples from it, in the same
    order. Nothing in a file is changed, and ``out`` appears when all of it is written.

    Args:
        root: folder with ``dataset.toml``; arrays in EXR cannot be packed.
        out: folder to write; there is none, or it is empty.
        shard_mb: a tar begins when the one before has so many MB, 1 to 100,000.
        on_progress: called with (samples done, samples in all).

    Raises:
        UsageError: an argument is wrong, ``out`` is there, or ``root`` is packed or has EXR files.
        DataError: ``root`` is no data set, or a file cannot be read.
        E2EDeployError: ``out`` cannot be written; nothing is left of it.
    """
    if not 1 <= shard_mb <= 100_000:
        raise UsageError(f"`shard_mb` is {shard_mb}; expected 1 to 100000")
    root, out = Path(root), Path(out)
    spec = load_spec(root)
    folders = split_folders(root, spec)
    sets = {split: FolderDataset(root, split) for split in folders}
    for data in sets.values():
        if data.is_packed:
            raise UsageError(f"{data.folder} is packed already")
        if exr := [kind for kind, suffix in data.suffixes.items() if suffix == ".exr"]:
            raise UsageError(
                f"{root} has its {exr[0]} in EXR files; as npy or png16 it can be packed"
            )
    total, done, shards, written = sum(len(data) for data in sets.values()), 0, 0, 0
    with whole_folder(out, _nothing) as partial:
        save_spec(partial, spec)
        for split, data in sets.items():
            folder = partial / folders[split].relative_to(root) / FOLDER
            folder.mkdir(parents=True)
            stems, checksums = deque(data.stems), dict[str, int]()
            while stems:
                name = f"{len(list(folder.iterdir())):06d}.tar"
                with tarfile.open(folder / name, "x", format=tarfile.PAX_FORMAT) as tar:
                    size = 0
                    while stems and size < shard_mb * 10**6:
                        size += _add(tar, data, stems.popleft(), checksums)
                        done += 1
                        if on_progress is not None:
                            on_progress(done, total)
                written += size
                shards += 1
            _index(folder, checksums)
    return PackReport(num_samples=done, num_shards=shards, num_bytes=written)


def _add(tar: tarfile.TarFile, data: FolderDataset, stem: str, checksums: dict[str, int]) -> int:
    """Append the files of a sample, and note their checksums; returns their bytes."""
    size = 0
    for kind, suffix in data.suffixes.items():
        content = read_bytes(data.file(kind, stem))
        member = tarfile.TarInfo(f"{stem}.{kind}{suffix}")
        member.size, member.mode = len(content), 0o644
        tar.addfile(member, io.BytesIO(content))
        checksums[member.name] = zlib.crc32(content)
        size += len(content)
    return size


def _index(folder: Path, checksums: Mapping[str, int]) -> None:
    """For those who read from afar; where the files lie is what any reader of the tars finds."""
    sizes = {tar.name: tar.stat().st_size for tar in sorted(folder.glob("*.tar"))}
    write_index(
        folder,
        sizes,
        [
            (name, Entry(member.tar.name, member.offset, member.size, checksums[name]))
            for name, member in Shards(folder).members()
        ],
    )


def _nothing(folder: Path) -> Sequence[str]:
    raise UsageError(f"{folder} is there; name a folder that is not")
