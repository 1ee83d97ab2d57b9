"""The list of what lies where in the tars of a split, for those who read them from afar.

    <split>/shards/index.json
    {"schema": 1, "tars": [{"name": .., "size": .., "members": [[name, offset, size, crc32], ..]}, ..]}

Knows: the file, its bounds. Does not know: tars, connections.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from e2e_deploy.errors import DataError
from e2e_deploy.system.files import whole_file
from e2e_deploy.system.json_files import parse_json

FILE = "index.json"
MAX_BYTES = 2**28
"""Two million samples."""

_TAR = re.compile(r"[\w-][\w.-]{0,200}\.tar")
_SCHEMA = 1


class Entry(NamedTuple):
    """Where the content of a file lies, and its checksum."""

    tar: str
    offset: int
    size: int
    crc32: int


def write_index(
    folder: Path, sizes: Mapping[str, int], members: Sequence[tuple[str, Entry]]
) -> None:
    """Write the index of the tars in ``folder``, whose ``sizes`` in bytes are given by name.

    Raises:
        E2EDeployError: it cannot be written.
    """
    lists: dict[str, list[list[object]]] = {tar: [] for tar in sizes}
    for name, entry in members:
        lists[entry.tar].append([name, *entry[1:]])
    tars = [{"name": tar, "size": sizes[tar], "members": lists[tar]} for tar in sizes]
    with whole_file(folder / FILE) as partial:
        partial.write_text(json.dumps({"schema": _SCHEMA, "tars": tars}), encoding="utf-8")


def parse_index(content: bytes, name: Path, largest: int) -> dict[str, Entry]:
    """The entries of an index by the names of their files, in the order of the tars.

    Args:
        content: of the file.
        name: of it, in messages.
        largest: bytes that one file may have.

    Raises:
        DataError: it is damaged, or holds what no tar has.
    """
    table: Any = parse_json(content, name, error=DataError)
    entries: dict[str, Entry] = {}
    try:
        if table["schema"] != _SCHEMA:
            raise ValueError(f"its schema is {table['schema']!r:.20}, expected {_SCHEMA}")
        for tar in table["tars"]:
            if not _TAR.fullmatch(tar["name"]):
                raise ValueError(f"{tar['name']!r:.60} is no name of a tar")
            for member, *numbers in tar["members"]:
                offset, size, crc32 = numbers
                if type(member) is not str or any(type(number) is not int for number in numbers):
                    raise ValueError("a member is not a name and three numbers")
                if member in entries:
                    raise ValueError(f"{member!r:.60} is there before")
                if not (0 <= size <= largest and 0 <= offset <= tar["size"] - size):
                    raise ValueError(f"{member!r:.60} lies outside its tar")
                entries[member] = Entry(tar["name"], offset, size, crc32)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{name}: not an index of shards ({error})") from None
    if not entries:
        raise DataError(f"{name}: no shard holds anything")
    return entries
