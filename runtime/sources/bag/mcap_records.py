"""Records of an MCAP file, one after another, none taken by a length that it only claims.

A record is an opcode of one byte, a length of eight, and that many bytes (mcap.dev/spec). What is in them the package
``mcap`` reads; its own loops take any length up to 4 GiB, and shorter bytes than that without a word.
"""

import os
import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple

from e2e_deploy.packages import require
from e2e_deploy.runtime.sources.bag.compressed import decompressed
from e2e_deploy.runtime.sources.bag.log import MAX_BYTES

MAGIC = b"\x89MCAP0\r\n"
MAX_MESSAGES = 1_000_000  # of a chunk
FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX = 0x02, 0x03, 0x04, 0x05, 0x06, 0x07
CHUNK_INDEX, STATISTICS, DATA_END = 0x08, 0x0B, 0x0F
HEAD = struct.Struct("<BQ")
FOOTER_BYTES = HEAD.size + 20
_CHUNK = struct.Struct(
    "<QQQII"
)  # first and last time, size, CRC-32, length of the compression's name
_MESSAGE = struct.Struct("<HIQQ")
_READ = (SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX, CHUNK_INDEX, STATISTICS)


class Record(NamedTuple):
    """One record: where it begins, its opcode and its bytes."""

    place: int
    opcode: int
    data: memoryview


class Entry(NamedTuple):
    """One message: its channel, when it was recorded, in nanoseconds, and its bytes."""

    channel: int
    logged_ns: int
    data: memoryview


class CutOffError(Exception):
    """The bytes end in the middle of a record, or are none."""


def records(stream: BinaryIO, start: int, end: int) -> Iterator[Record]:
    """The records between two places of a file; those of no interest are passed over unread.

    Raises:
        CutOffError: one is longer than what is left.
        OSError: it cannot be read.
    """
    place = start
    while place < end:
        stream.seek(place)
        head = stream.read(HEAD.size)
        if len(head) < HEAD.size:
            raise CutOffError(f"a record begins at byte {place:,} and the file ends in it")
        opcode, length = HEAD.unpack(head)
        if opcode == 0 or place + HEAD.size + length > end:
            raise CutOffError(
                f"at byte {place:,} a record is said to hold {length:,} bytes, and {max(end - place - HEAD.size, 0):,} "
                "follow"
            )
        if opcode in _READ:
            if length > MAX_BYTES + 1024:
                raise CutOffError(
                    f"at byte {place:,} a record holds {length:,} bytes, and at most {MAX_BYTES:,} are read"
                )
            data = stream.read(length)
            if len(data) < length:
                raise CutOffError(f"a record begins at byte {place:,} and the file ends in it")
            yield Record(place, opcode, memoryview(data))
        elif opcode in (DATA_END, FOOTER):
            return
        place += HEAD.size + length


def parsed(record: Record) -> Any:
    """The fields of a schema, channel, chunk index or statistics, as the package ``mcap`` names them.

    Raises:
        ValueError: damaged bytes.
    """
    known = require("mcap.records", "robotics")
    kinds = {
        SCHEMA: known.Schema,
        CHANNEL: known.Channel,
        CHUNK_INDEX: known.ChunkIndex,
        STATISTICS: known.Statistics,
    }
    stream = require("mcap.data_stream", "robotics").ReadDataStream(BytesIO(record.data))
    try:
        return kinds[record.opcode].read(stream)
    except (
        Exception
    ) as error:  # damaged bytes lead it to raise what struct, str and its own end of file do
        raise ValueError(
            f"the record at byte {record.place:,} is damaged ({type(error).__name__})"
        ) from None


def message(record: Record) -> Entry:
    """The fields of a message.

    Raises:
        ValueError: damaged bytes.
    """
    if len(record.data) < _MESSAGE.size:
        raise ValueError(f"the message at byte {record.place:,} is too short")
    channel, _, logged_ns, _ = _MESSAGE.unpack_from(record.data)
    return Entry(channel, logged_ns, record.data[_MESSAGE.size :])


def indexed(record: Record) -> list[tuple[int, int]]:
    """Of a message index (time of recording, place in the chunk) of each message.

    Raises:
        ValueError: damaged bytes.
    """
    size = int.from_bytes(record.data[2:6], "little")
    pairs = record.data[6 : 6 + size]
    if len(pairs) < size or size % 16 or size > 16 * MAX_MESSAGES:
        raise ValueError(f"the message index at byte {record.place:,} is damaged")
    return list(struct.iter_unpack("<QQ", pairs))


def in_chunk(record: Record) -> Iterator[Record]:
    """The records of a chunk.

    Raises:
        ValueError: damaged, too large, or compressed otherwise than it says.
    """
    try:
        raw = memoryview(_unpacked(record.data))
    except (ValueError, struct.error) as error:
        raise ValueError(f"the chunk at byte {record.place:,} is damaged: {error}") from None
    place = 0
    while place < len(raw):
        if place + HEAD.size > len(raw):
            raise ValueError(f"the chunk at byte {record.place:,} ends in the middle of a record")
        opcode, length = HEAD.unpack_from(raw, place)
        begin = place + HEAD.size
        if begin + length > len(raw):
            raise ValueError(f"the chunk at byte {record.place:,} ends in the middle of a record")
        yield Record(record.place, opcode, raw[begin : begin + length])
        place = begin + length


def _unpacked(chunk: memoryview) -> bytes | memoryview:
    """The records of a chunk as bytes; nothing is copied that need not be."""
    _, _, size, crc, length = _CHUNK.unpack_from(chunk)
    begin = _CHUNK.size + length
    method = bytes(chunk[_CHUNK.size : begin]).decode()
    packed = int.from_bytes(chunk[begin : begin + 8], "little")
    data = chunk[begin + 8 :]  # with what later versions may append
    if packed > len(data):
        raise ValueError("it is shorter than it says")
    return decompressed(data[:packed], method, size, crc)


def size_of(stream: BinaryIO) -> int:
    """Bytes of an opened file."""
    return os.fstat(stream.fileno()).st_size
