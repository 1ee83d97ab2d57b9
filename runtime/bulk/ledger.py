"""What is done of a bulk run, on disk beside its results, so that a killed one goes on where it was.

    OUT/_bulk/plan.json            what is run: inputs, bundles, settings; written first, never changed
    OUT/_bulk/ledger/000001.json   shards that were finished, with their failures; the rename is the commit
    OUT/_bulk/lock                 held by the run that writes here

One process writes it, the one that began the run. A shard that no file names is done again, to the same files.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from e2e_deploy.errors import E2EDeployError, InputError, UsageError
from e2e_deploy.runtime.bulk.parcel import Failure, Parcel
from e2e_deploy.system.files import make_folder, whole_file
from e2e_deploy.system.json_files import read_json, to_json
from e2e_deploy.system.records import CountOrZero, Limits, read_record

FOLDER = "_bulk"
_SEGMENT = re.compile(r"[0-9]{6,}\.json")
_Seconds = Annotated[float, Limits(0.0)]
MAX_FAILURES = (
    4096  # of a file, which holds one shard at least: what is written here must be read again
)
MAX_BYTES = 2**28


@dataclass(frozen=True)
class ShardEntry:
    """One finished shard.

    Attributes:
        shard: its number.
        written: pictures with results.
        unknown: results in which no pixel is a number.
        failures: (index, path, reason) of pictures without.
        seconds: of each stage.
    """

    shard: CountOrZero
    written: CountOrZero
    unknown: CountOrZero
    failures: list[Failure]
    seconds: dict[str, _Seconds]


@dataclass(frozen=True)
class _Segment:
    shards: list[ShardEntry]


class Ledger:
    """The ledger of one output; open it as a block, in which no other run writes there.

    Args:
        out: the output's folder.

    Attributes:
        done: numbers of the finished shards.
        written: pictures that have results.
        unknown: of their results those without a number.
        failures: of the finished shards, by index.
        seconds: of each stage, in all.
    """

    def __init__(self, out: Path) -> None:
        self.folder = out / FOLDER
        self._out, self._segments = out, self.folder / "ledger"
        self.done: set[int] = set()
        self.written = self.unknown = 0
        self.failures: dict[int, Failure] = {}
        self.seconds: dict[str, float] = {}
        self._count = 0

    @contextmanager
    def open(self, plan: dict[str, Any]) -> Iterator["Ledger"]:
        """Begin or go on.

        Args:
            plan: what is run, as JSON; it must be the one that was begun.

        Raises:
            UsageError: another run is at work there, was begun with something else, or the folder holds other files.
            InputError: what is there is damaged.
            E2EDeployError: nothing can be written there.
        """
        make_folder(self._out)
        begun = self.folder / "plan.json"
        if not self.folder.is_dir() and any(self._out.iterdir()):
            raise UsageError(
                f"{self._out} holds files that no bulk run wrote; give another folder as `out`"
            )
        make_folder(self._segments)
        with self._alone():
            files = self._files()
            if begun.exists():
                _require_same(self._out, read_json(begun), plan)
                self._read(files)
            elif files:
                raise InputError(
                    f"{begun} is missing, which says of what {files[0]} tells; remove {self.folder}, and everything "
                    "is done again"
                )
            else:
                _store(begun, plan)
            yield self

    @contextmanager
    def _alone(self) -> Iterator[None]:
        path = self.folder / "lock"
        try:
            lock = path.open("a")
        except OSError as error:
            raise E2EDeployError(f"{path} could not be written: {error.strerror}") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    f"another bulk run writes to {self._out}; wait for its end"
                ) from None
            except OSError as error:
                raise E2EDeployError(
                    f"{path} cannot be locked ({error.strerror}), and two runs would not see each other; give an "
                    "`out` on another file system"
                ) from None
            yield

    def _files(self) -> list[Path]:
        """The ledger's files in order, without what a killed run left of one that was not whole yet."""
        try:
            return sorted(p for p in self._segments.iterdir() if _SEGMENT.fullmatch(p.name))
        except OSError as error:
            raise InputError(f"{self._segments} cannot be read: {error.strerror}") from None

    def _read(self, files: list[Path]) -> None:
        for path in files:
            segment, problems = read_record(
                _Segment, read_json(path, limit=MAX_BYTES), complete=True, clean_texts=True
            )
            if segment is None:
                raise InputError(
                    f"{path} is damaged ({problems[0]}); remove it, and its shards are done again"
                )
            self._count = max(self._count, int(path.stem))
            for entry in segment.shards:
                self._add(entry)

    def _add(self, entry: ShardEntry) -> None:
        if entry.shard in self.done:
            return
        self.done.add(entry.shard)
        self.written += entry.written
        self.unknown += entry.unknown
        self.failures |= {failure.index: failure for failure in entry.failures}
        for stage, seconds in entry.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def commit(self, parcels: list[Parcel]) -> None:
        """Say of shards, whose files are on the disk, that they are finished.

        Raises:
            E2EDeployError: it cannot be written.
        """
        entries = [
            ShardEntry(p.shard, p.written, p.unknown, p.failures, p.seconds)
            for p in parcels
            if p.shard not in self.done
        ]
        for together in _by_failures(entries):
            self._count += 1
            shards = [asdict(entry) for entry in together]
            _store(self._segments / f"{self._count:06d}.json", {"shards": shards})
            for entry in together:
                self._add(entry)


def _by_failures(entries: list[ShardEntry]) -> Iterator[list[ShardEntry]]:
    """The entries in order, MAX_FAILURES at once or a single one."""
    together: list[ShardEntry] = []
    failures = 0
    for entry in entries:
        failures += len(entry.failures)
        if together and failures > MAX_FAILURES:
            yield together
            together, failures = [], len(entry.failures)
        together.append(entry)
    if together:
        yield together


def _store(path: Path, table: dict[str, Any]) -> None:
    with whole_file(path) as partial, partial.open("wb") as stream:
        stream.write((to_json(table, indent=1) + "\n").encode("utf-8", "surrogatepass"))
        stream.flush()
        os.fsync(stream.fileno())


def _require_same(out: Path, begun: dict[str, Any], plan: dict[str, Any]) -> None:
    """Raise a UsageError that names what is not as it was."""
    for name, value in plan.items():
        if begun.get(name) != value:
            was = begun.get(name)
            shown = f": it was {to_json(was)[:80]}, and is {to_json(value)[:80]}"
            raise UsageError(
                f"{out} was begun with other {name}{shown if name in ('settings', 'pictures') else ''}; "
                "give another folder as `out`, or what it was begun with"
            )
