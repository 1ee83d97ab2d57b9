"""What a bulk run works on: every item of a folder or list, in a steady order, each with the name of its results.

Knows: folders, lists, and what holds many items. Does not know: what is in a picture; none is opened here.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from e2e_deploy.errors import SourceError, UnavailableError, UsageError
from e2e_deploy.runtime.bulk.inputs import lists
from e2e_deploy.runtime.bulk.inputs.holder import Held, Place
from e2e_deploy.runtime.bulk.inputs.holders import Lister, lister_by_content, lister_of
from e2e_deploy.runtime.bulk.inputs.item import BulkItem, Missing
from e2e_deploy.runtime.bulk.store import Store, is_address
from e2e_deploy.runtime.sources.picture_file import PICTURE_SUFFIXES
from e2e_deploy.runtime.sources.picture_source import result_names
from e2e_deploy.system.addresses import masked

MAX_ITEMS = 20_000_000  # 8 GB of memory
MAX_LIST = 2**30  # bytes of a list in a store, which is copied


@dataclass(frozen=True)
class Listing:
    """All items of a bulk run.

    Attributes:
        items: in order.
        digest: SHA-256 over paths, sizes and places; another one is another input.
        others: files of the folder that are not read, by their names.
        notes: what has to be known of them, a sentence each.
    """

    items: list[BulkItem]
    digest: str
    others: int = 0
    notes: list[str] = field(default_factory=list)

    def shards(self, size: int) -> list[range]:
        """The indices of items that are handed on together: ``size`` of them, fewer at the end of a stretch."""
        found: list[range] = []
        first = 0
        for index in range(1, len(self.items) + 1):
            full = index - first == size
            if (
                full
                or index == len(self.items)
                or self.items[index].stretch is not self.items[first].stretch
            ):
                found.append(range(first, index))
                first = index
        return found


def list_items(source: str | Path, column: str | None, topic: str | None = None) -> Listing:
    """The items of a folder and of those in it, of a list, or of a file that holds many.

    Args:
        source: as a path a folder; a .parquet, .csv or .jsonl file, whose relative paths begin at its own folder; or a
            file that holds many. As a text the address of a prefix or of such a list in a store.
        column: of a list, which holds the paths; ``path`` if None.
        topic: of logs and data sets of robots, whose pictures.

    Raises:
        SourceError: it is missing, cannot be read, or names no picture.
        UsageError: ``column`` for what is no list, ``topic`` where it chooses nothing, or a file that is not read.
        UnavailableError: it needs a package that is not installed.
    """
    made = _Maker(source, topic)
    if isinstance(source, str):
        _add_store(made, source, column)
        return made.listing()
    try:
        text = os.fspath(source)
        is_folder = source.is_dir()
        if not is_folder and not source.exists():
            raise SourceError(
                f"{masked(text)} is missing: expected is a folder of pictures, a list of them, or a file that "
                "holds many"
            )
        is_list = not is_folder and source.suffix.lower() in lists.SUFFIXES
        if column is not None and not is_list:
            what = "a folder" if is_folder else "none"
            raise UsageError(f"`column` is of a list, and {text} is {what}")
        if lister := lister_of(source) or (
            None if is_folder or is_list else lister_by_content(source)
        ):
            made.hold(source, lister(source, topic), "")
        elif is_folder:
            _add_folder(made, source)
        elif is_list:
            _add_list(made, source, column or "path")
        else:
            raise UsageError(
                f"{source} is one picture, which `run` takes; expected is a folder of them, a list "
                f"({', '.join(lists.SUFFIXES)}), or a file that holds many"
            )
    except OSError as error:
        raise SourceError(f"{masked(os.fspath(source))} cannot be read: {error.strerror}") from None
    return made.listing()


class _Maker:
    """Items as they are found, and what is known of all of them."""

    def __init__(self, root: str | Path, topic: str | None) -> None:
        self._root, self._topic = root, topic
        self._digest = hashlib.sha256()
        self._items: list[BulkItem] = []
        self._pictures = (
            0  # that are files of their own: they are counted apart from what is in other files
        )
        self._had_topics = False
        self.others = 0
        self.notes: list[str] = []

    def tell(self, *facts: object) -> None:
        """Add what other inputs would have otherwise to the digest."""
        for fact in facts:
            self._digest.update(f"{fact}\0".encode("utf-8", "surrogateescape"))

    def picture(self, path: str | Path, folder: str, name: str) -> None:
        """One that is a file of its own."""
        self._add(BulkItem(len(self._items), str(path), folder, name, self._pictures))
        self._pictures += 1

    def open(self, path: Path, lister: Lister, folder: str) -> None:
        """One of several that hold many; if it cannot be read, that is an item that has no result."""
        try:
            held = lister(path, self._topic)
        except (SourceError, UnavailableError) as error:
            held = Held([Place("", Missing(str(error)))])
        self.hold(path, held, folder)

    def hold(self, path: str | Path, held: Held, folder: str) -> None:
        """What is in one that holds many; its results come into ``folder``."""
        text = str(path)
        for file in held.files:
            self.tell(file.name, file.stat().st_size)
        for number, place in enumerate(held.places):
            inner = os.path.join(folder, place.folder) if place.folder else folder
            self._add(BulkItem(len(self._items), text, inner, place.name, number, place.part))
            self.tell(place)
        self.others += held.others
        self._had_topics |= held.has_topics
        self.notes += held.notes

    def _add(self, item: BulkItem) -> None:
        if len(self._items) == MAX_ITEMS:
            raise SourceError(f"{self._root} holds more than {MAX_ITEMS:,} pictures; split it")
        self._items.append(item)

    def listing(self) -> Listing:
        if self._topic is not None and not self._had_topics:
            raise UsageError(
                f"`topic` is for logs and data sets of robots, and {self._root} holds none; leave it out"
            )
        if not any(not isinstance(item.part, Missing) for item in self._items):
            reasons = [i.part.reason for i in self._items if isinstance(i.part, Missing)]
            reasons += self.notes
            raise SourceError(
                "; ".join(
                    [
                        f"{self._root} holds no pictures ({', '.join(PICTURE_SUFFIXES)})",
                        *reasons[:1],
                    ]
                )
            )
        if self.others:
            self.notes.append(f"{self.others} files of {self._root} are not read, by their names")
        return Listing(self._items, self._digest.hexdigest(), self.others, self.notes)


def _add_folder(made: _Maker, root: Path) -> None:
    """Folder by folder in the order of names, first what is in a folder, then its folders; hidden ones are left out.

    In each, pictures come first; what holds many has a folder of its own for its results, of its whole name.
    """

    def refuse(error: OSError) -> None:
        raise SourceError(f"the folder {error.filename} cannot be read: {error.strerror}")

    linked: list[str] = []
    for folder, folders, names in os.walk(root, onerror=refuse):
        place, inner = Path(folder), os.path.relpath(folder, root)
        inner = "" if inner == "." else inner
        below = sorted(name for name in folders if not name.startswith("."))
        seen = sorted(place / name for name in names if not name.startswith("."))
        paths = [path for path in seen if path.suffix.lower() in PICTURE_SUFFIXES]
        for path, name in zip(paths, result_names(paths), strict=True):
            made.tell(path.relative_to(root), path.stat().st_size if path.exists() else -1)
            made.picture(path, inner, name)
        holding = _holding([*seen, *(place / name for name in below)])
        for path, lister in holding.items():
            made.tell(path.relative_to(root))
            made.open(path, lister, os.path.join(inner, path.name))
        made.others += len(seen) - len(paths) - sum(path in holding for path in seen)
        folders[:] = [name for name in below if place / name not in holding]
        linked += [str(place / name) for name in folders if (place / name).is_symlink()]
    if linked:  # one may lead back to where it lies
        made.notes.append(
            f"links to folders are not followed: {len(linked)} in {root}, such as {linked[0]}; a list may name what "
            "is in them"
        )


def _holding(paths: Iterable[Path]) -> dict[Path, Lister]:
    return {path: lister for path in paths if (lister := lister_of(path))}


def _add_list(made: _Maker, source: Path, column: str, base: str = "") -> None:
    """Pictures, and what holds many by its name, which has a folder of its own for its results.

    ``base`` is the address that relative paths begin at, of a list that is a copy of one in a store.
    """
    paths: list[str] = []
    is_told = False
    for given in lists.paths_of(source, column):
        if len(paths) == MAX_ITEMS:
            raise SourceError(f"{source} names more than {MAX_ITEMS:,} pictures; split it")
        made.tell(given)
        if is_address(given):
            Store(given.rpartition("/")[0])  # what is none is known before the run
            paths.append(given)
        else:
            begin = base or str(source.parent)
            if not (is_told or os.path.isabs(given)):  # the same names elsewhere are other pictures
                made.tell(begin)
                is_told = True
            relative = base and not given.startswith("/")
            paths.append(f"{base}/{given}" if relative else str(source.parent / given))
    if not paths:
        raise SourceError(f"the list {source} names no picture")
    names = result_names([Path(path) for path in paths])
    for path, name in zip(paths, names, strict=True):
        lister = lister_of(Path(path))
        if lister and is_address(path):
            reason = f"{path} holds many pictures, and of a store single ones are read; copy it to a disk"
            made.hold(path, Held([Place("", Missing(reason))]), name)
        elif lister:
            made.open(Path(path), lister, name)
        else:
            made.picture(path, "", name)


def _add_store(made: _Maker, source: str, column: str | None) -> None:
    """A prefix in the order of a folder, or a list."""
    above, _, name = source.rpartition("/")
    if Path(name).suffix.lower() not in lists.SUFFIXES:
        if column is not None:
            raise UsageError(f"`column` is of a list, and {masked(source)} is none")
        _add_prefix(made, Store(source), "")
        return
    store = Store(above)
    with tempfile.TemporaryDirectory(prefix="e2e-list-") as folder:
        copy = Path(folder) / name
        copy.write_bytes(store.read(name, MAX_LIST))
        try:
            _add_list(made, copy, column or "path", store.address)
        except (SourceError, UsageError) as error:
            raise type(error)(str(error).replace(str(copy), source)) from None


def _add_prefix(made: _Maker, store: Store, inner: str) -> None:
    """As ``_add_folder``; of what holds many pictures nothing is read there."""
    found = store.folder(inner)
    at = f"{inner}/" if inner else ""
    seen = [(name, size) for name, size in found.files if not name.startswith(".")]
    pictures = [each for each in seen if Path(each[0]).suffix.lower() in PICTURE_SUFFIXES]
    names = result_names([Path(name) for name, _ in pictures])
    for (file, size), name in zip(pictures, names, strict=True):
        made.tell(f"{at}{file}", size)
        made.picture(store.shown(f"{at}{file}"), inner, name)
    made.others += len(seen) - len(pictures)
    if holding := [name for name, _ in seen if lister_of(Path(name))]:
        made.notes.append(
            f"{len(holding)} files in {store.shown(inner)} that hold many pictures, such as {holding[0]}, are not "
            "read: of a store single pictures are; copy them to a disk"
        )
    for folder in found.folders:
        if not folder.startswith("."):
            _add_prefix(made, store, f"{at}{folder}")
