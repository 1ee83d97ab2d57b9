"""The stage that decodes: items to pictures, in tasks of their own beside the engines."""

import time
from collections.abc import Iterator

from e2e_deploy.runtime.bulk.inputs.reading import read_items
from e2e_deploy.runtime.bulk.parcel import (
    Failure,
    Parcel,
    Picture,
    Table,
    from_orders,
    to_table,
)

DECODE = "decode"


def read_shards(table: Table) -> Iterator[Table]:
    """Rows of parcels of items as parcels of pictures; an item that cannot be read is a failure with its reason."""
    for parcels in from_orders(table):
        for parcel in _read(parcels):
            yield to_table([parcel])


def _read(parcels: list[Parcel]) -> Iterator[Parcel]:
    """Each parcel when all of its items were read; they are read in one go, as frames of a video have to be."""
    now = iter(parcels)
    current = parcels[0]
    found = read_items(
        [item for parcel in parcels for item in parcel.items], lambda text: current.note(text)
    )
    for current in now:
        start = time.perf_counter()
        for item, read in (next(found) for _ in range(len(current.items))):
            if isinstance(read, str):
                current.failures.append(Failure(item.index, item.shown, read))
            else:
                current.pictures.append(Picture(item, read.rgb, read.moment))
        current.items = []
        current.seconds[DECODE] = time.perf_counter() - start
        yield current
