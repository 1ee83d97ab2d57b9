"""Compressed bytes of logs, never more of them than what was promised: a few bytes may stand for gigabytes."""

import os
import shutil
import tempfile
import weakref
import zlib
from pathlib import Path

from e2e_deploy.errors import SourceError
from e2e_deploy.packages import require
from e2e_deploy.runtime.sources.bag.log import MAX_BYTES
from e2e_deploy.system.files import open_regular

_STEP = 1024 * 1024
_SHARE = 0.9  # of what is free on a disk, which others use as well


def decompressed(
    data: bytes | memoryview, method: str, size: int, crc: int = 0
) -> bytes | memoryview:
    """``size`` bytes out of ``data``.

    Args:
        data: one frame of zstd or lz4, or the bytes themselves.
        method: ``zstd``, ``lz4``, or empty, as MCAP calls them.
        size: that they were before.
        crc: CRC-32 of them; 0 is none.

    Raises:
        ValueError: damaged bytes, more or fewer than promised, too many, or an unknown method.
    """
    if size > MAX_BYTES:
        raise ValueError(f"{size:,} bytes, and {MAX_BYTES:,} are the most that is read at once")
    raw: bytes | memoryview
    if method == "zstd":
        raw = zstd(data, size)
    elif method == "lz4":
        lz4 = require("lz4.frame", "robotics")
        try:
            raw = lz4.LZ4FrameDecompressor().decompress(data, max_length=size + 1)
        except (RuntimeError, EOFError, MemoryError) as error:
            raise ValueError(f"lz4 says {error}") from None
    elif method:
        raise ValueError(f"it is compressed by {method[:20]!r}; zstd and lz4 are read")
    else:
        raw = data
    if len(raw) != size:
        raise ValueError(f"it holds {'more' if len(raw) > size else 'fewer'} bytes than it says")
    if crc and zlib.crc32(raw) != crc:
        raise ValueError("its checksum is another")
    return raw


def zstd(data: bytes | memoryview, limit: int = MAX_BYTES) -> bytes:
    """One frame of zstd, at most ``limit`` bytes and one more of it.

    Raises:
        ValueError: it is damaged.
    """
    zstandard = require("zstandard", "robotics")
    try:
        said = zstandard.get_frame_parameters(data).content_size
        known = said if said != zstandard.CONTENTSIZE_UNKNOWN else limit
        with zstandard.ZstdDecompressor().stream_reader(data) as stream:
            raw: bytes = stream.read(min(known, limit) + 1)
    except (zstandard.ZstdError, MemoryError) as error:
        raise ValueError(f"zstd says {error}") from None
    return raw


class Unpacked:
    """A file that was compressed as a whole by zstd, unpacked into a temporary folder, which goes with this object.

    Attributes:
        packed: what was given.
        path: of the unpacked file.

    Raises:
        SourceError: it cannot be read, or its content has no room on that disk.
    """

    def __init__(self, path: Path) -> None:
        zstandard = require("zstandard", "robotics")
        folder = tempfile.mkdtemp(prefix="e2e-deploy-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.packed, self.path = path, Path(folder, path.stem)
        room = int(_SHARE * shutil.disk_usage(folder).free)
        try:
            with (
                open_regular(path) as packed,
                zstandard.ZstdDecompressor().stream_reader(packed) as stream,
                self.path.open("wb") as file,
            ):
                while block := stream.read(_STEP):
                    room -= len(block)
                    if room < 0:
                        raise SourceError(
                            f"{path} unpacks to more than fits into {os.path.dirname(folder)}: set TMPDIR "
                            "to a folder on a larger disk, or unpack it yourself with zstd"
                        )
                    file.write(block)
        except zstandard.ZstdError as error:
            raise SourceError(f"{path} cannot be unpacked: zstd says {error}") from None
        except OSError as error:
            raise SourceError(f"{path} cannot be unpacked: {error.strerror or error}") from None
