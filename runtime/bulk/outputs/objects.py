"""Results in an object store: a file is one object, which is there whole or not at all.

Nothing can be locked there. Two runs of the same do the work twice, and write the same files; of two different ones
the later sees the plan of the earlier, and two that begin in the same moment see it when they say what they have done.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from e2e_deploy.errors import E2EDeployError, SourceError, UsageError
from e2e_deploy.runtime.bulk.outputs.encoded import Files
from e2e_deploy.runtime.bulk.outputs.folder import BOOKS
from e2e_deploy.runtime.bulk.store import Store


class StoreOutput:
    """A prefix of a store.

    Args:
        address: of it.

    Raises:
        UsageError: it is none.
        UnavailableError: the package that speaks to the store is not installed.
    """

    has_lock = False

    def __init__(self, address: str) -> None:
        self._store = Store(address)
        self._known: set[str] = set()  # what was listed: nothing of a run is ever removed

    def __reduce__(self) -> tuple[type["StoreOutput"], tuple[str]]:
        """Its address alone: each process finds the credentials itself."""
        return StoreOutput, (self._store.address,)

    def begin(self) -> None:
        """As ``Output``."""
        try:
            found = self._store.folder()
        except SourceError as error:  # it is no input
            raise E2EDeployError(str(error)) from None
        if BOOKS not in found.folders and (found.folders or found.files):
            raise UsageError(
                f"{self.shown()} holds files that no bulk run wrote; give another prefix as `out`"
            )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """As ``Output``; it cannot be had."""
        yield

    def names(self, folder: str) -> list[str]:
        """As ``Output``."""
        found = [name for name, _ in self._store.folder(folder).files]
        self._known |= {f"{folder}/{name}" for name in found}
        return found

    def read(self, name: str, limit: int) -> bytes | None:
        """As ``Output``."""
        folder, _, last = name.rpartition("/")
        if name not in self._known and last not in self.names(folder):
            return None
        return self._store.read(name, limit)

    def write(self, files: Files) -> None:
        """As ``Output``."""
        for name, data in files:
            self._store.write(name, data)

    def tidy(self) -> None:
        """As ``Output``; there is nothing."""

    def shown(self, name: str = "") -> str:
        """As ``Output``."""
        return self._store.shown(name)
