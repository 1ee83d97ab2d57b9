"""Items read, of whatever kind: one table says by which function."""

from collections.abc import Callable, Iterator, Sequence

from e2e_deploy.errors import SourceError, UnavailableError
from e2e_deploy.runtime.bulk.inputs.data_sets import Shot, read_shots
from e2e_deploy.runtime.bulk.inputs.item import BulkItem, Missing, Part, Read
from e2e_deploy.runtime.bulk.inputs.logs import Message, read_messages
from e2e_deploy.runtime.bulk.inputs.pictures import Member, read_pictures
from e2e_deploy.runtime.bulk.inputs.videos import Frame, read_frames
from e2e_deploy.runtime.sources.picture_file import Note

Reader = Callable[[Sequence[BulkItem], Note], Iterator[Read | str]]
"""Of items of one stretch, in order: each as it was read, or why it cannot be. An error is of all that are left."""


def _missing(items: Sequence[BulkItem], note: Note) -> Iterator[Read | str]:
    for item in items:
        assert isinstance(item.part, Missing)
        yield item.part.reason


_READERS: dict[type[Part] | type[None], Reader] = {
    type(None): read_pictures,
    Member: read_pictures,
    Shot: read_shots,
    Frame: read_frames,
    Message: read_messages,
    Missing: _missing,
}


def read_items(items: Sequence[BulkItem], note: Note) -> Iterator[tuple[BulkItem, Read | str]]:
    """Each item in order with what was read of it, or why it cannot be.

    Args:
        items: of one stretch, or none of any.
        note: is told what has to be known of a result, in a sentence.
    """
    first = 0
    while first < len(items):
        kind = type(items[first].part)
        last = first
        while last < len(items) and type(items[last].part) is kind:
            last += 1
        yield from _read(_READERS[kind], items[first:last], note)
        first = last


def _read(
    reader: Reader, items: Sequence[BulkItem], note: Note
) -> Iterator[tuple[BulkItem, Read | str]]:
    found, why = reader(items, note), ""
    for item in items:
        if not why:
            try:
                read = next(found)
            except (SourceError, UnavailableError) as error:
                why = str(error)
        yield item, why or read
