"""Where a bulk run's results and its ledger go: a folder, or a prefix of an object store."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from e2e_deploy.runtime.bulk.outputs.encoded import Files
from e2e_deploy.runtime.bulk.outputs.folder import FolderOutput
from e2e_deploy.runtime.bulk.outputs.objects import StoreOutput


class Output(Protocol):
    """One of them; goes from process to process.

    Attributes:
        has_lock: only one run writes there at a time.
    """

    has_lock: bool

    def begin(self) -> None:
        """See that results can go there.

        Raises:
            UsageError: others' files are there.
            E2EDeployError: nothing can be written there.
        """
        ...

    def alone(self) -> AbstractContextManager[None]:
        """A block in which no other run writes there, where that can be had.

        Raises:
            UsageError: another run does.
            E2EDeployError: that cannot be known.
        """
        ...

    def names(self, folder: str) -> list[str]:
        """Of the files right in a folder of it, in order.

        Raises:
            InputError: they cannot be read.
        """
        ...

    def read(self, name: str, limit: int) -> bytes | None:
        """A file of at most ``limit`` bytes; None where there is none.

        Raises:
            InputError: it cannot be read, or is larger.
        """
        ...

    def write(self, files: Files) -> None:
        """Write files, each whole, one after the other, to stay.

        Raises:
            E2EDeployError: one cannot be written; those before it are there.
        """
        ...

    def tidy(self) -> None:
        """Remove what workers that died left of files."""
        ...

    def shown(self, name: str = "") -> str:
        """A file of it, or the whole, for people."""
        ...


def output_of(place: str | Path) -> Output:
    """That of a path, or of a text that is an address.

    Raises:
        UsageError: an address that is none.
        UnavailableError: the package that speaks to the store is not installed.
    """
    return StoreOutput(place) if isinstance(place, str) else FolderOutput(place)
