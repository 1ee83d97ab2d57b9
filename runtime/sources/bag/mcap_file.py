"""An MCAP file as a log: by its index where it has one, else from its first byte to its last whole record.

The package ``mcap`` and not ``rosbags`` reads it, because the latter takes no file that was cut off, and none without
the profile ``ros2``; and not by the former's readers, for which see ``mcap_records.py``.
"""

import heapq
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.sources.bag.log import MAX_BYTES, Logged, Span, Tell, Topic
from e2e_deploy.runtime.sources.bag.mcap_records import (
    CHANNEL,
    CHUNK,
    CHUNK_INDEX,
    FOOTER,
    FOOTER_BYTES,
    HEAD,
    MAGIC,
    MAX_MESSAGES,
    MESSAGE,
    MESSAGE_INDEX,
    SCHEMA,
    STATISTICS,
    CutOffError,
    Entry,
    Record,
    in_chunk,
    indexed,
    message,
    parsed,
    records,
    size_of,
)
from e2e_deploy.system.files import open_regular

_FOOTER = struct.Struct("<QQI")  # start of the summary, of its offsets, checksum
_SHARE = 0.5  # of a chunk, from which on a message is no longer copied out of it
_STEP = 1024 * 1024
MAX_WAITING_BYTES = 2 * MAX_BYTES  # of messages that wait because chunks overlap in time
# What is small in the file and larger in memory.
_MAX_SUMMARY_BYTES = 64 * 1024 * 1024
_MAX_NAME = 1024
_ENTRY_BYTES = 200  # of a message that waits, without its data
_NONE = memoryview(b"")


class _Channel(NamedTuple):
    topic: str
    encoding: str
    schema: int


class _Chunk(NamedTuple):
    start_ns: int
    place: int
    end_ns: int
    size: int
    indexes: dict[int, int]  # channel: where the index of its messages is


class McapFile:
    """One MCAP file. Attributes as ``Log`` says.

    Args:
        path: of the file.
        name: for people, where it is not the path.

    Raises:
        SourceError: it cannot be read, or has another version.
    """

    def __init__(self, path: Path, name: str = "") -> None:
        self._path, self._name = path, name or str(path)
        self.files = [path]
        self.topics: list[Topic] = []
        self.notes: list[str] = []
        self.cut = ""
        self.seconds: float | None = None
        self._schemas: dict[int, str] = {}
        self._channels: dict[int, _Channel] = {}
        self._chunks: list[_Chunk] = []
        self._counts: Counter[int] | None = None
        self._times: list[int] = []  # of the first and the last message
        try:
            with open_regular(path) as stream:
                if stream.read(len(MAGIC)) != MAGIC:
                    raise SourceError(
                        f"{self._name} is no MCAP file of version 0: it begins otherwise"
                    )
                if not self._read_index(stream):
                    self._read_through(stream)
        except OSError as error:
            raise SourceError(f"{self._name} cannot be read: {error.strerror or error}") from None
        if self._times:
            self.seconds = (max(self._times) - min(self._times)) / 1e9
        self.topics = [self._topic(number) for number in sorted(self._channels)]

    def _topic(self, number: int) -> Topic:
        name, encoding, schema = self._channels[number]
        counted = None if self._counts is None else self._counts[number]
        return Topic(name, self._schemas.get(schema, ""), encoding, counted)

    def _read_index(self, stream: BinaryIO) -> bool:
        """Whether its summary says what is in it and where; else nothing was learned."""
        size = size_of(stream)
        end = size - len(MAGIC) - FOOTER_BYTES
        if end < len(MAGIC):
            return False
        stream.seek(end)
        tail = stream.read(FOOTER_BYTES + len(MAGIC))
        if not tail.endswith(MAGIC) or HEAD.unpack_from(tail) != (FOOTER, 20):
            return False
        start, _, crc = _FOOTER.unpack_from(tail, HEAD.size)
        if not len(MAGIC) <= start < end or end - start > _MAX_SUMMARY_BYTES:
            return False
        # The checksum is of the summary and of the footer before it.
        if crc and crc != zlib.crc32(tail[: HEAD.size + 16], _checksum(stream, start, end)):
            return False
        statistics: Any = None
        chunks: dict[int, _Chunk] = {}
        try:
            for record in records(stream, start, end):
                if record.opcode in (SCHEMA, CHANNEL):
                    self._learn(record)
                elif record.opcode == CHUNK_INDEX:
                    found = _chunk(parsed(record))
                    chunks[found.place] = found
                elif record.opcode == STATISTICS:
                    statistics = parsed(record)
        except (CutOffError, ValueError):
            chunks = {}
        channels = frozenset(n for chunk in chunks.values() for n in chunk.indexes)
        if not chunks or not channels <= set(self._channels):
            self._schemas, self._channels = {}, {}
            return False
        if statistics is not None:
            self._counts = Counter(statistics.channel_message_counts)
            self._times = [statistics.message_start_time, statistics.message_end_time]
        self._chunks = sorted(chunks.values())
        return True

    def _learn(self, record: Record) -> None:
        found = parsed(record)
        # Ids mean the same throughout a file: a second definition is a copy.
        if record.opcode == SCHEMA:
            self._schemas.setdefault(found.id, found.name[:_MAX_NAME])
            return
        if max(len(found.topic), len(found.message_encoding)) > _MAX_NAME:
            raise ValueError(f"the channel at byte {record.place:,} has a name that is too long")
        channel = _Channel(found.topic, found.message_encoding, found.schema_id)
        self._channels.setdefault(found.id, channel)

    def _read_through(self, stream: BinaryIO) -> None:
        """Learn what is in it from its data."""
        self.notes.append(
            f"{self._name} has no index that holds, so it is read through once before it begins"
        )
        self._counts = Counter()
        for entries in self._entries(stream, lambda why: None):
            for entry in entries:
                times = [*self._times, entry.logged_ns]
                self._times = [min(times), max(times)]
                self._counts[entry.channel] += 1

    def _entries(self, stream: BinaryIO, damaged: Tell) -> Iterator[list[Entry]]:
        """The messages of the whole file in its order, a chunk at a time; sets ``cut``."""
        size = size_of(stream)
        stream.seek(max(size - len(MAGIC), 0))
        whole = stream.read() == MAGIC
        try:
            for record in records(stream, len(MAGIC), size - whole * len(MAGIC)):
                try:
                    yield self._entries_of(record)
                except ValueError as error:
                    damaged(str(error))
        except CutOffError as error:
            self.cut = str(error)
        if not whole and not self.cut:
            self.cut = "its last bytes are missing"

    def _entries_of(self, record: Record) -> list[Entry]:
        if record.opcode in (SCHEMA, CHANNEL):
            self._learn(record)
        if record.opcode == MESSAGE:
            return [message(record)]
        if record.opcode != CHUNK:
            return []
        found = []
        for inner in in_chunk(record):
            if inner.opcode in (SCHEMA, CHANNEL):
                self._learn(inner)
            elif inner.opcode == MESSAGE:
                found.append(message(inner))
                if len(found) > MAX_MESSAGES:
                    raise ValueError(
                        f"the chunk at byte {record.place:,} has more than {MAX_MESSAGES:,} messages"
                    )
        return sorted(found, key=lambda entry: entry.logged_ns)

    @property
    def is_ordered(self) -> bool:
        """As ``Log`` says: with an index."""
        return bool(self._chunks)

    def messages(
        self, topics: Collection[str], damaged: Tell, span: Span | None = None
    ) -> Iterator[Logged]:
        """As ``Log`` says: by the time of recording where there is an index, else as they lie, chunk by chunk.

        Raises:
            SourceError: the file cannot be read; or its chunks overlap so far that too much would have to wait.
        """
        names = self._named(topics)
        try:
            with open_regular(self._path) as stream:
                if self._chunks:
                    found = self._by_time(
                        set(names), lambda chunk: self._chunk_at(stream, chunk.place, damaged), span
                    )
                else:
                    found = (e for each in self._entries(stream, damaged) for e in each)
                for entry in found:
                    if entry.channel in names:
                        yield Logged(names[entry.channel], entry.data, entry.logged_ns)
        except OSError as error:
            raise SourceError(f"{self._name} cannot be read: {error.strerror or error}") from None

    def times(self, topic: str, damaged: Tell) -> Iterator[int]:
        """As ``Log`` says: chunks are not read where they have an index.

        Raises:
            SourceError: as ``messages``.
        """
        if not self._chunks:
            yield from (logged.logged_ns for logged in self.messages([topic], damaged))
            return
        wanted = set(self._named([topic]))
        try:
            with open_regular(self._path) as stream:
                found = self._by_time(
                    wanted, lambda chunk: self._index_of(stream, chunk, wanted, damaged)
                )
                yield from (entry.logged_ns for entry in found)
        except OSError as error:
            raise SourceError(f"{self._name} cannot be read: {error.strerror or error}") from None

    def _named(self, topics: Collection[str]) -> dict[int, str]:
        channels = self._channels.items()
        return {number: channel.topic for number, channel in channels if channel.topic in topics}

    def _by_time(
        self, wanted: set[int], entries: Callable[[_Chunk], list[Entry]], span: Span | None = None
    ) -> Iterator[Entry]:
        waiting: list[tuple[int, int, Entry]] = []
        held, order = 0, count()
        for chunk in self._chunks:
            # A chunk without an index of its messages may hold any.
            if chunk.indexes and wanted.isdisjoint(chunk.indexes):
                continue
            if span is not None and not (chunk.start_ns < span[1] and span[0] <= chunk.end_ns):
                continue
            while waiting and waiting[0][0] <= chunk.start_ns:
                entry = heapq.heappop(waiting)[2]
                held -= len(entry.data) + _ENTRY_BYTES
                yield entry
            for entry in entries(chunk):
                is_in = span is None or span[0] <= entry.logged_ns < span[1]
                if entry.channel in wanted and is_in:
                    if len(entry.data) < _SHARE * chunk.size:
                        # A slice holds its whole chunk.
                        entry = entry._replace(data=memoryview(bytes(entry.data)))
                    held += len(entry.data) + _ENTRY_BYTES
                    heapq.heappush(waiting, (entry.logged_ns, next(order), entry))
            if held > MAX_WAITING_BYTES:
                raise SourceError(
                    f"{self._name} has chunks that overlap so far in time that {held:,} bytes wait for their turn, and "
                    f"{MAX_WAITING_BYTES:,} may: put it in order with `mcap sort`"
                )
        while waiting:
            yield heapq.heappop(waiting)[2]

    def _index_of(
        self, stream: BinaryIO, chunk: _Chunk, wanted: set[int], damaged: Tell
    ) -> list[Entry]:
        """A chunk's messages without their bytes, as its index tells them; where that is damaged, as it does itself."""
        places = [chunk.indexes[number] for number in wanted if number in chunk.indexes]
        found: list[tuple[int, int, int]] = []
        try:
            for place in places:
                record = next(records(stream, place, size_of(stream)), None)
                if record is None or record.place != place or record.opcode != MESSAGE_INDEX:
                    raise ValueError("no message index")
                number = int.from_bytes(record.data[:2], "little")
                found += [(time_ns, at, number) for time_ns, at in indexed(record)]
        except (CutOffError, ValueError):
            places = []
        if not places:
            return [e._replace(data=_NONE) for e in self._chunk_at(stream, chunk.place, damaged)]
        return [Entry(number, time_ns, _NONE) for time_ns, _, number in sorted(found)]

    def _chunk_at(self, stream: BinaryIO, place: int, damaged: Tell) -> list[Entry]:
        try:
            record = next(records(stream, place, size_of(stream)), None)
            if record is None or record.place != place or record.opcode != CHUNK:
                raise ValueError(f"its index names a chunk at byte {place:,}, and there is none")
            return self._entries_of(record)
        except (CutOffError, ValueError) as error:
            damaged(str(error))
            return []


def _chunk(index: Any) -> _Chunk:
    """What is kept of a chunk's index."""
    return _Chunk(
        index.message_start_time,
        index.chunk_start_offset,
        index.message_end_time,
        index.uncompressed_size,
        dict(index.message_index_offsets),
    )


def _checksum(stream: BinaryIO, start: int, end: int) -> int:
    stream.seek(start)
    crc = 0
    for place in range(start, end, _STEP):
        crc = zlib.crc32(stream.read(min(_STEP, end - place)), crc)
    return crc
