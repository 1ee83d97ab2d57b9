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
from e2e_deploy.runtime.bulk.trial import deadly_items
from e2e_deploy.system.text import clean

DECODE = "decode"


def read_shards(table: Table, *, tries_first: bool = False) -> Iterator[Table]:
    """Rows of parcels of items as parcels of pictures; an item that cannot be read is a failure with its reason.

    Args:
        table: of orders.
        tries_first: in a process apart, because workers died of what they read.
    """
    for parcels in from_orders(table):
        for parcel in _read(parcels, tries_first=tries_first):
            yield to_table([parcel])


def _read(parcels: list[Parcel], *, tries_first: bool) -> Iterator[Parcel]:
    """Each parcel when all of its items were read; they are read in one go, as frames of a video have to be."""
    now = iter(parcels)
    current = parcels[0]
    items = [item for parcel in parcels for item in parcel.items]
    deadly = deadly_items(items) if tries_first else {}
    found = read_items(
        [item for item in items if item.index not in deadly], lambda text: current.note(text)
    )
    for current in now:
        start = time.perf_counter()
        for item in current.items:
            read = deadly.get(item.index) or next(found)[1]
            if isinstance(read, str):
                current.failures.append(Failure(item.index, item.shown, clean(read)))
            else:
                current.pictures.append(Picture(item, read.rgb, read.moment))
        current.items = []
        current.seconds[DECODE] = time.perf_counter() - start
        yield current
