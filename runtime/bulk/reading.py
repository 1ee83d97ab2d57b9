"""The stage that decodes: a shard's files to pictures, in tasks of their own beside the engines."""

import time

from e2e_deploy.errors import SourceError, UnavailableError
from e2e_deploy.runtime.bulk.parcel import Failure, Parcel, Picture, Table, from_table, to_table
from e2e_deploy.runtime.sources.picture_file import read_picture

DECODE = "decode"


def read_shards(table: Table) -> Table:
    """Rows of items as rows of pictures; one that cannot be read is a failure with its reason."""
    return to_table([_read(parcel) for parcel in from_table(table)])


def _read(parcel: Parcel) -> Parcel:
    start = time.perf_counter()
    for item in parcel.items:
        try:
            rgb = read_picture(item.path, note=parcel.note)
        except (SourceError, UnavailableError) as error:
            parcel.failures.append(Failure(item.index, item.path, str(error)))
        else:
            parcel.pictures.append(Picture(item, rgb))
    parcel.items = []
    parcel.seconds[DECODE] = time.perf_counter() - start
    return parcel
