"""What is done of a bulk run, kept beside its results, so that a killed one goes on where it was.

    OUT/_bulk/plan.json            what is run: inputs, bundles, settings; written first, never changed
    OUT/_bulk/ledger/000001.json   shards that were finished, with their failures; its appearance is the commit
    OUT/_bulk/lock                 held by the run that writes here, in a folder

One process writes it, the one that began the run. A shard that no file names is done again, to the same files. In a
store, where nothing can be locked, two runs may write: their files have names of their own, and a shard that both
name counts once.
"""

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from e2e_deploy.errors import InputError, UsageError
from e2e_deploy.runtime.bulk.outputs.folder import BOOKS
from e2e_deploy.runtime.bulk.outputs.output import output_of
from e2e_deploy.runtime.bulk.parcel import Failure, Parcel
from e2e_deploy.system.json_files import parse_json, to_json
from e2e_deploy.system.records import CountOrZero, Limits, read_record

_PLAN, _SEGMENTS = f"{BOOKS}/plan.json", f"{BOOKS}/ledger"
_SEGMENT = re.compile(r"([0-9]{6,})(-[0-9a-f]{8})?\.json")
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
        out: the path of the output's folder, or as a text the address of its prefix in a store.

    Attributes:
        output: where it is kept.
        done: numbers of the finished shards.
        written: pictures that have results.
        unknown: of their results those without a number.
        failures: of the finished shards, by index.
    """

    def __init__(self, out: str | Path) -> None:
        self.output = output_of(out)
        self._plan: dict[str, Any] = {}
        self._own = "" if self.output.has_lock else f"-{secrets.token_hex(4)}"
        self.done: set[int] = set()
        self.written = self.unknown = 0
        self.failures: dict[int, Failure] = {}
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
        self.output.begin()
        with self.output.alone():
            names = [n for n in self.output.names(_SEGMENTS) if _SEGMENT.fullmatch(n)]
            begun = self._begun()
            if begun is not None:
                self._plan = plan
                _require_same(self.output.shown(), begun, plan)
                self._read(names)
            elif names:
                raise InputError(
                    f"{self.output.shown(_PLAN)} is missing, which says of what {names[0]} tells; remove "
                    f"{self.output.shown(BOOKS)}, and everything is done again"
                )
            else:
                self._store(_PLAN, plan)
                self._plan = plan
            yield self

    def _begun(self) -> dict[str, Any] | None:
        data = self.output.read(_PLAN, MAX_BYTES)
        return None if data is None else parse_json(data, self.output.shown(_PLAN))

    def _read(self, names: list[str]) -> None:
        for name in names:
            shown = self.output.shown(f"{_SEGMENTS}/{name}")
            data = self.output.read(f"{_SEGMENTS}/{name}", MAX_BYTES)
            table = parse_json(data or b"", shown)
            segment, problems = read_record(_Segment, table, complete=True, clean_texts=True)
            if segment is None:
                raise InputError(
                    f"{shown} is damaged ({problems[0]}); remove it, and its shards are done again"
                )
            self._count = max(self._count, int(name.partition(".")[0].partition("-")[0]))
            for entry, told in zip(segment.shards, table["shards"], strict=True):
                # A path stays what it was, whatever its bytes: it names a file.
                paths = [failure["path"] for failure in told["failures"]]
                entry.failures[:] = map(_of_path, entry.failures, paths)
                self._add(entry)

    def _add(self, entry: ShardEntry) -> None:
        if entry.shard in self.done:
            return
        self.done.add(entry.shard)
        self.written += entry.written
        self.unknown += entry.unknown
        self.failures |= {failure.index: failure for failure in entry.failures}

    def left(self, count: int) -> list[int]:
        """Numbers of the shards below ``count`` that are not finished."""
        return [number for number in range(count) if number not in self.done]

    def check(self) -> None:
        """See that no other run has begun in the same place, where nothing can be locked.

        Raises:
            UsageError: one has, with something else.
        """
        if not self.output.has_lock:
            _require_same(self.output.shown(), self._begun() or {}, self._plan)

    def commit(self, parcels: list[Parcel]) -> None:
        """Say of shards, whose files are there to stay, that they are finished.

        Raises:
            E2EDeployError: it cannot be written.
            UsageError: another run has begun in the same place of a store, with something else.
        """
        entries = [
            ShardEntry(p.shard, p.written, p.unknown, p.failures, p.seconds)
            for p in parcels
            if p.shard not in self.done
        ]
        if entries:
            self.check()
        for together in _by_failures(entries):
            self._count += 1
            shards = [asdict(entry) for entry in together]
            self._store(f"{_SEGMENTS}/{self._count:06d}{self._own}.json", {"shards": shards})
            for entry in together:
                self._add(entry)

    def _store(self, name: str, table: dict[str, Any]) -> None:
        text = to_json(table, indent=1) + "\n"
        self.output.write([(name, text.encode("utf-8", "surrogatepass"))])


def _of_path(failure: Failure, path: str) -> Failure:
    return replace(failure, path=path)


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


def _require_same(out: str, begun: dict[str, Any], plan: dict[str, Any]) -> None:
    """Raise a UsageError that names what is not as it was."""
    for name, value in plan.items():
        if begun.get(name) != value:
            was = begun.get(name)
            shown = f": it was {to_json(was)[:80]}, and is {to_json(value)[:80]}"
            raise UsageError(
                f"{out} was begun with other {name}{shown if name in ('settings', 'pictures') else ''}; "
                "give another `out`, or what it was begun with"
            )
