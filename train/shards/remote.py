"""Samples in tars at an address, each read by its place, so in any order; some are kept on this machine's disk.

Which are kept follows from the index alone: the first ones, as many as the bound allows. So the bound holds for any
number of processes, and a second epoch finds what the first one kept. What a larger bound kept is removed at once.
Knows: what is kept, whether it is whole. Does not know: how bytes come, pictures.
"""

import hashlib
import os
import shutil
import zlib
from contextlib import suppress
from pathlib import Path

from e2e_deploy.errors import DataError, E2EDeployError
from e2e_deploy.system.cache_folder import default_folder, private_folder
from e2e_deploy.system.files import read_bytes, whole_file
from e2e_deploy.train.shards.fetching import Address, fetch
from e2e_deploy.train.shards.index import FILE, MAX_BYTES, Entry, parse_index
from e2e_deploy.train.shards.tars import MAX_MEMBER

DEFAULT_GB = 20.0


class RemoteShards:
    """The members of all tars below an address, as ``Shards`` has them of a folder.

    Args:
        address: of the folder with the tars and their index.
        cache_gb: of the content that is kept, 10^9 bytes; 0 keeps nothing, None DEFAULT_GB.

    Raises:
        DataError: the index is missing or damaged.
        E2EDeployError: nobody answers, or the cache folder cannot be used.
    """

    def __init__(self, address: str, *, cache_gb: float | None = None) -> None:
        self.address = address
        index = f"{address}/{FILE}"
        content = fetch(index, limit=MAX_BYTES)
        self._entries = parse_index(content, Address(index), MAX_MEMBER)
        self._kept_until = self._last_kept(
            int((DEFAULT_GB if cache_gb is None else cache_gb) * 10**9)
        )
        self._folder: Path | None = None
        if self._kept_until is None:
            _forget(address)
        else:
            self._folder = _folder_for(address, content)
            _remove_beyond(self._kept_until, self._folder)

    def names(self, ending: str) -> set[str]:
        """What stands before ``.<ending>`` in the names that end so."""
        dotted = f".{ending}"
        return {name.removesuffix(dotted) for name in self._entries if name.endswith(dotted)}

    def size(self, name: str) -> int:
        """Bytes of a member."""
        return self._entries[name].size

    def read(self, name: str) -> bytes:
        """The content of a member.

        Raises:
            DataError: it is not what was indexed.
            E2EDeployError: its tar is gone or may not be read, the connection is lost, time after time, or what came
                cannot be kept.
        """
        entry = self._entries[name]
        kept = self._place(entry)
        if kept is not None and (content := _whole(kept, entry)) is not None:
            return content
        tar = f"{self.address}/{entry.tar}"
        try:
            content = fetch(tar, limit=entry.size, part=(entry.offset, entry.size))
        except DataError as error:
            # No bad sample: the others of this tar are gone, too, and perhaps all tars.
            raise E2EDeployError(
                f"{error}, though the index names it; bring it back or pack the data set again"
            ) from error
        if zlib.crc32(content) != entry.crc32:
            raise DataError(f"{tar}: {name} is not what the index says; pack the data set again")
        if kept is not None:
            try:
                with whole_file(kept) as partial:
                    partial.write_bytes(content)
            except E2EDeployError as error:
                raise E2EDeployError(f"{error}; free space, or set its cache_gb lower") from error
        return content

    def _last_kept(self, most: int) -> tuple[str, int] | None:
        """Tar and offset of the last member that is kept."""
        last, total = None, 0
        for entry in sorted(self._entries.values()):
            total += entry.size
            if total > most:
                break
            last = entry.tar, entry.offset
        return last

    def _place(self, entry: Entry) -> Path | None:
        if self._folder is None or self._kept_until is None or entry[:2] > self._kept_until:
            return None
        return self._folder / entry.tar / str(entry.offset)


def _folder_for(address: str, index: bytes) -> Path:
    """Where what this index names is kept; what an earlier one of the same address left is removed."""
    private_folder(default_folder())
    place = _place_of(address)
    folder = place / _short(index)
    private_folder(folder)
    for other in place.iterdir():
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    return folder


def _forget(address: str) -> None:
    """Remove all that was kept of an address, if this user has a cache."""
    with suppress(E2EDeployError):
        shutil.rmtree(_place_of(address), ignore_errors=True)


def _remove_beyond(last: tuple[str, int], folder: Path) -> None:
    for tar, _, names in os.walk(folder):
        for name in names:
            # Others may remove it meanwhile; hidden files are being written.
            if name.isdecimal() and (os.path.basename(tar), int(name)) > last:
                with suppress(OSError):
                    os.unlink(os.path.join(tar, name))


def _place_of(address: str) -> Path:
    return default_folder() / "shards" / _short(address.encode())


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]


def _whole(file: Path, entry: Entry) -> bytes | None:
    try:
        content = read_bytes(file, entry.size)
    except OSError:
        return None
    return content if zlib.crc32(content) == entry.crc32 else None
