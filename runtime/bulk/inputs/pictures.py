"""Items that are picture files, and pictures that lie in a file as they are: where bytes come from.

Knows: paths, places in files. Does not know: what a picture is, which ``picture_file`` reads.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import SourceError, UnavailableError
from e2e_deploy.runtime.bulk.inputs.item import BulkItem, Part, Read
from e2e_deploy.runtime.bulk.store import is_address, read_address
from e2e_deploy.runtime.sources.picture_file import (
    MAX_FILE_BYTES,
    Note,
    decode_picture,
    read_picture,
)
from e2e_deploy.system.files import open_regular


@dataclass(frozen=True, slots=True)
class Member(Part):
    """Bytes of a file that are a picture's file: a member of a tar.

    Attributes:
        offset: of its first byte.
        length: bytes.
        member: its name there.
    """

    offset: int
    length: int
    member: str

    def shown(self, path: str, number: int) -> str:
        """As if the tar were a folder."""
        return f"{path}/{self.member}"


def read_pictures(items: Sequence[BulkItem], note: Note) -> Iterator[Read | str]:
    """Each picture, or why it cannot be read."""
    for item in items:
        try:
            yield Read(_picture(item, note))
        except (SourceError, UnavailableError) as error:
            yield str(error)


def _picture(item: BulkItem, note: Note) -> npt.NDArray[np.uint8]:
    if is_address(item.path):
        return decode_picture(read_address(item.path, MAX_FILE_BYTES), item.path, note=note)
    if not isinstance(item.part, Member):
        return read_picture(item.path, note=note)
    if item.part.length > MAX_FILE_BYTES:
        raise SourceError(
            f"{item.shown} holds {item.part.length:,} bytes; a picture may have {MAX_FILE_BYTES:,}"
        )
    data = read_bytes_at(item.path, item.part.offset, item.part.length)
    return decode_picture(data, item.shown, note=note)


def read_bytes_at(path: str, offset: int, length: int) -> bytes:
    """Some bytes of a file.

    Raises:
        SourceError: it cannot be read, or ends before.
    """
    try:
        with open_regular(Path(path)) as stream:
            data = os.pread(stream.fileno(), length, offset)
            while 0 < len(data) < length:  # a call of the system gives at most 2 GiB
                more = os.pread(stream.fileno(), length - len(data), offset + len(data))
                if not more:
                    break
                data += more
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(data) < length:
        raise SourceError(f"{path} ends before byte {offset + length:,}: it has become shorter")
    return data
