"""What goes from one stage of a bulk run to the next: one row of Arrow a shard, with what is known of it as bytes.

Between processes of one run only: nothing of it is kept, and nobody else writes it.
"""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.packages import require
from e2e_deploy.runtime.backends.layout import Outcome
from e2e_deploy.runtime.bulk.inputs.item import BulkItem, Moment
from e2e_deploy.system.text import clean

Table = Any
"""pyarrow.Table: PyArrow is an optional package."""

MAX_SHARD_NOTES = 20
PARCEL, ORDER = "parcel", "order"


@dataclass(frozen=True, slots=True)
class Failure:
    """A picture without a result, and why."""

    index: int
    path: str
    reason: str


@dataclass(slots=True)
class Picture:
    """A decoded picture, uint8 RGB [H, W, 3], and when it was taken."""

    item: BulkItem
    rgb: npt.NDArray[np.uint8]
    moment: Moment


@dataclass(slots=True)
class Done:
    """A picture's results as the engines gave them, at their frame size, one entry a bundle.

    Attributes:
        hw: (H, W) of the picture.
    """

    item: BulkItem
    moment: Moment
    hw: tuple[int, int]
    results: list[Outcome]


@dataclass
class Parcel:
    """A shard on its way.

    Attributes:
        shard: its number.
        items: what it is made of; empty once they were read.
        pictures: read and not yet in an engine.
        done: with results.
        failures: those without.
        notes: what has to be known of pictures, a sentence each; the first MAX_SHARD_NOTES.
        seconds: that each stage worked on it, by the stage's name.
        written: pictures whose results were written.
        unknown: results in which no pixel is a number.
    """

    shard: int
    items: list[BulkItem] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    written: int = 0
    unknown: int = 0

    def note(self, text: str) -> None:
        """Keep a sentence, without what a hostile name would do to a terminal."""
        if len(self.notes) < MAX_SHARD_NOTES:
            self.notes.append(clean(text))


def to_table(parcels: Sequence[Parcel]) -> Table:
    """A row each."""
    return _table(PARCEL, parcels)


def from_table(table: Table) -> list[Parcel]:
    """The parcels of the rows."""
    return _rows(PARCEL, table)


def to_orders(orders: Sequence[list[Parcel]]) -> Table:
    """A row for the parcels that one worker reads one after the other."""
    return _table(ORDER, orders)


def from_orders(table: Table) -> list[list[Parcel]]:
    """What the rows hold."""
    return _rows(ORDER, table)


def _table(column: str, rows: Sequence[object]) -> Table:
    pa = require("pyarrow", "bulk")
    data = [pickle.dumps(row, protocol=5) for row in rows]
    return pa.table({column: pa.array(data, pa.large_binary())})


def _rows(column: str, table: Table) -> list[Any]:
    return [pickle.loads(cell.as_buffer()) for cell in table.column(column)]
