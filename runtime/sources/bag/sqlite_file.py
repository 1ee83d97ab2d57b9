"""An SQLite file of rosbag2 as a log: tables ``topics`` and ``messages``, as its storage plugin sqlite3 writes them.

Python's own sqlite3 reads it, a message at a time, so that one damaged page costs no more than its messages.
"""

import os
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.sources.bag.log import MAX_BYTES, Logged, Span, Tell, Topic
from e2e_deploy.system.files import open_regular
from e2e_deploy.system.text import clean

MAGIC = b"SQLite format 3\0"
# What it says of damage may be no text: a ValueError then.
_ERRORS = (sqlite3.Error, ValueError, OverflowError)
MAX_NAME = 1024
MAX_TOPICS = 100_000
_STEPS = 10_000_000  # of SQLite's machine between two calls of Python, in which Ctrl-C is heard


class SqliteFile:
    """One SQLite file. Attributes as ``Log`` says.

    Args:
        path: of the file.
        name: for people, where it is not the path.

    Raises:
        SourceError: it cannot be read, or is not of rosbag2.
    """

    def __init__(self, path: Path, name: str = "") -> None:
        self._path, self._name = path, name or str(path)
        self.files = [path]
        self.notes: list[str] = []
        self.cut = ""
        try:
            with open_regular(path) as stream:
                self._missing = _missing_bytes(stream)
            left = path.with_name(f"{path.name}-wal")
            if left.exists() and left.stat().st_size:
                self.cut = (
                    f"{left.name} beside it holds what its recorder did not put in: "
                    f"`sqlite3 {path.name} 'PRAGMA wal_checkpoint(TRUNCATE)'` does"
                )
        except OSError as error:
            raise SourceError(f"{self._name} cannot be read: {error.strerror or error}") from None
        counts: dict[int, int] | None = None
        first: Any = None
        last: Any = None
        try:
            with closing(self._open()) as base:
                self._check_tables(base)
                if self._missing:
                    self.cut = f"its last {self._missing:,} bytes are missing"
                else:
                    (first, last), counts = _span_and_counts(base)
                rows = base.execute(
                    "SELECT id, substr(name, 1, ?1), substr(type, 1, ?1), substr(serialization_format, 1, ?1) "
                    "FROM topics ORDER BY id LIMIT ?2",
                    (MAX_NAME, MAX_TOPICS),
                ).fetchall()
        except _ERRORS as error:
            if getattr(error, "sqlite_errorname", "") == "SQLITE_INTERRUPT":
                raise KeyboardInterrupt from None  # what `_go_on` met, and SQLite took for a no
            raise SourceError(
                f"{self._name} is not an SQLite file of rosbag2 that can be read: {clean(str(error))}"
            ) from None
        self.topics = [
            Topic(name, kind, encoding, None if counts is None else counts.get(number, 0))
            for number, name, kind, encoding in rows
            if isinstance(name, str) and isinstance(kind, str) and isinstance(encoding, str)
        ]
        is_known = isinstance(first, int) and isinstance(last, int)
        self.seconds = (last - first) / 1e9 if is_known else None

    def _open(self) -> sqlite3.Connection:
        # Immutable: nothing is made beside it, no lock, no log that is played back.
        place = f"file:{quote(str(self._path.absolute()))}?mode=ro&immutable=1"
        base = sqlite3.connect(place, uri=True, check_same_thread=False)  # by one at a time
        base.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_BYTES)
        base.text_factory = lambda text: text.decode(errors="replace")
        base.set_progress_handler(_go_on, _STEPS)
        base.execute("PRAGMA trusted_schema = OFF")
        base.execute("PRAGMA cell_size_check = ON")
        if (
            self._missing
        ):  # SQLite's own word for going on with fewer pages than the first one tells
            base.execute("PRAGMA writable_schema = ON")
        return base

    def _check_tables(self, base: sqlite3.Connection) -> None:
        """Views of those names could compute anything."""
        found = base.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name IN ('topics', 'messages')"
        ).fetchall()
        if len(found) != 2:
            raise SourceError(
                f"{self._name} is an SQLite file without the tables topics and messages of rosbag2"
            )

    @property
    def is_ordered(self) -> bool:
        """As ``Log`` says: if it is whole."""
        return not self._missing

    def messages(
        self, topics: Collection[str], damaged: Tell, span: Span | None = None
    ) -> Iterator[Logged]:
        """As ``Log`` says: by the time of recording.

        Raises:
            SourceError: the file breaks off.
        """
        found = self._rows(topics, damaged, span)
        if not self._missing:
            yield from found
            return
        # SQLite takes what is missing of the last page for zeros, and that page may be of the last message of a topic.
        last: dict[str, Logged] = {}
        for each in found:
            if before := last.get(each.topic):
                yield before
            last[each.topic] = each

    def times(self, topic: str, damaged: Tell) -> Iterator[int]:
        """As ``Log`` says: no message is read.

        Raises:
            SourceError: as ``messages``.
        """
        if self._missing:
            yield from (logged.logged_ns for logged in self.messages([topic], damaged))
            return
        with self._whole_or_said(), closing(self._open()) as base:
            _, found = self._found(base, [topic], None)
            yield from (logged_ns for _, _, logged_ns in found if isinstance(logged_ns, int))

    def _rows(self, topics: Collection[str], damaged: Tell, span: Span | None) -> Iterator[Logged]:
        with self._whole_or_said(), closing(self._open()) as base:
            names, found = self._found(base, topics, span)
            for number, topic, logged_ns in found:
                data = self._data(base, number, damaged)
                if data is not None and isinstance(logged_ns, int):
                    yield Logged(names[topic], data, logged_ns)

    @contextmanager
    def _whole_or_said(self) -> Iterator[None]:
        """What is raised where the file breaks off, as a sentence; of one that is cut off ``cut`` says it."""
        try:
            yield
        except _ERRORS as error:
            if not self._missing:
                raise SourceError(f"{self._name} breaks off: {clean(str(error))}") from None

    def _found(
        self, base: sqlite3.Connection, topics: Collection[str], span: Span | None
    ) -> tuple[dict[int, str], sqlite3.Cursor]:
        """The names of topics, and id, topic and time of their messages in order."""
        self._check_tables(base)
        names = dict(
            base.execute(
                "SELECT id, substr(name, 1, ?) FROM topics LIMIT ?", (MAX_NAME, MAX_TOPICS)
            )
        )
        wanted = [number for number, name in names.items() if name in topics]
        places = ",".join("?" for _ in wanted)
        # The index by time lies behind the messages.
        order = "id" if self._missing else "timestamp, id"
        within = "" if span is None else "AND timestamp >= ? AND timestamp < ? "
        found = base.execute(
            f"SELECT id, topic_id, timestamp FROM messages WHERE topic_id IN ({places}) "
            f"{within}ORDER BY {order}",
            [*wanted, *(span or ())],
        )
        return names, found

    def _data(self, base: sqlite3.Connection, number: int, damaged: Tell) -> bytes | None:
        try:
            ((data,),) = base.execute("SELECT data FROM messages WHERE id = ?", (number,))
        except _ERRORS as error:
            damaged(f"message {number} cannot be read: {clean(str(error))}")
            return None
        if not isinstance(data, bytes):
            damaged(f"message {number} holds no bytes")
            return None
        return data


def _missing_bytes(stream: BinaryIO) -> int:
    """Of a file that was cut off: its first page says how long it is (sqlite.org/fileformat.html, 1.3)."""
    head = stream.read(100)
    if len(head) < 100 or head[24:28] != head[92:96]:  # then it does not say
        return 0
    page = int.from_bytes(head[16:18], "big")
    said = int.from_bytes(head[28:32], "big") * (65536 if page == 1 else page)
    return max(0, said - os.fstat(stream.fileno()).st_size)


def _span_and_counts(base: sqlite3.Connection) -> tuple[tuple[Any, Any], dict[int, int]]:
    """The first and the last time, and the number of messages of each topic."""
    span = base.execute("SELECT min(timestamp), max(timestamp) FROM messages").fetchone()
    return span, dict(base.execute("SELECT topic_id, count(*) FROM messages GROUP BY topic_id"))


def _go_on() -> int:
    """Nothing but a place where Python hears Ctrl-C."""
    return 0
