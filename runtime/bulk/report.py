"""What a bulk run tells: pictures, failures, and how busy its stages were; as an object, as JSON and as tables."""

import csv
import io
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from e2e_deploy.errors import InputError
from e2e_deploy.packages import require
from e2e_deploy.runtime.bulk.outputs.encoded import Files
from e2e_deploy.runtime.bulk.outputs.folder import BOOKS
from e2e_deploy.runtime.bulk.parcel import Failure
from e2e_deploy.system.json_files import parse_json, to_json

REPORT = "report.json"


@dataclass
class BulkReport:
    """What a bulk run did; grows while it runs.

    Attributes:
        pictures: in all.
        before: of them those that an earlier run had done, failures among them.
        written: that have results now.
        failures: that have none, with their reasons.
        unknown_results: results in which no pixel is a number.
        seconds: of this run, from when Ray was asked to the last shard; engines load in them.
        stage_seconds: that workers spent in each stage in this run, over all of them.
        workers: engines at work at once.
        notes: what has to be known of pictures, and what runs each bundle, a sentence each.
        out: the output's folder, or its address in a store.
        interrupted: the user stopped it; a rerun goes on.
    """

    pictures: int
    out: str | Path
    workers: int = 0
    before: int = 0
    written: int = 0
    failures: list[Failure] = field(default_factory=list)
    unknown_results: int = 0
    seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def finished(self) -> int:
        """Pictures that are done, in this run or before, with a result or a reason."""
        return self.written + len(self.failures)

    @property
    def per_second(self) -> float:
        """Pictures a second in this run."""
        return (self.finished - self.before) / self.seconds if self.seconds > 0 else 0.0

    @property
    def utilisation(self) -> float:
        """Share of their time that the engines computed, 0 to 1."""
        busy = self.stage_seconds.get("engine", 0.0)
        return (
            min(1.0, busy / (self.seconds * self.workers)) if self.seconds * self.workers else 0.0
        )

    @property
    def complete(self) -> bool:
        """Whether every picture has a result that holds numbers."""
        return self.written == self.pictures and not self.unknown_results

    def values(self) -> dict[str, Any]:
        """For JSON: what is above, with throughput per stage in pictures a second of one worker."""
        new = self.finished - self.before
        told = asdict(self) | {"out": str(self.out), "failures": len(self.failures)}
        return told | {
            "finished": self.finished,
            "pictures_per_second": self.per_second,
            "engine_utilisation": self.utilisation,
            "stage_pictures_per_second": {
                stage: new / seconds for stage, seconds in self.stage_seconds.items() if seconds
            },
        }


def report_files(report: BulkReport) -> Files:
    """The pictures without results as failed.csv and failed.parquet, and last report.json."""
    failures = sorted(report.failures, key=lambda failure: failure.index)
    pa, parquet = require("pyarrow", "bulk"), require("pyarrow.parquet", "bulk")
    columns = {
        "index": pa.array([f.index for f in failures], pa.int64()),
        "path": pa.array([plain_text(f.path) for f in failures], pa.string()),
        "reason": pa.array([plain_text(f.reason) for f in failures], pa.string()),
    }
    table, rows = io.BytesIO(), io.StringIO(newline="")
    parquet.write_table(pa.table(columns), table)
    writer = csv.writer(rows)
    writer.writerow(("index", "path", "reason"))
    writer.writerows((f.index, plain_text(f.path), plain_text(f.reason)) for f in failures)
    return [
        (f"{BOOKS}/failed.csv", rows.getvalue().encode()),
        (f"{BOOKS}/failed.parquet", table.getvalue()),
        (f"{BOOKS}/{REPORT}", f"{to_json(report.values(), indent=2)}\n".encode()),
    ]


def is_told(data: bytes | None, finished: int) -> bool:
    """Whether report.json is of the run that did the last of the work; one that was killed leaves an earlier one's."""
    try:
        return data is not None and parse_json(data, REPORT).get("finished") == finished
    except InputError:
        return False


def plain_text(text: str) -> str:
    """A path as a table may hold it: a file's name may hold bytes that are no UTF-8; a table cannot."""
    return text.encode("utf-8", "backslashreplace").decode()
