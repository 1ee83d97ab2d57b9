"""What a native library writes into a path, on its way into a file of ours."""

import os
import select
from pathlib import Path
from threading import Thread

_PIECE = 1024 * 1024
_LOOK_MS = 200


class Poured:
    """A pipe that pours into a file, by a thread of its own, and takes everything whatever becomes of the file.

    Rerun's own writer waits for ever once a disk was full (rerun-sdk 0.41: ``disconnect`` after a write that failed).

    Args:
        file: that is there; it is written from its start.

    Attributes:
        source: path that the library opens for writing; ``opened`` says that it has.
        error: why the file is not whole; None while it is.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, file: Path) -> None:
        self._file = file.open("wb", buffering=0)
        self._reads, self._writes = os.pipe()
        self.source = Path(f"/dev/fd/{self._writes}")
        self.error: OSError | None = None
        self._ready = select.poll()
        self._ready.register(self._reads, select.POLLIN)
        self._is_last = False
        self._thread = Thread(target=self._pour, name="e2e-deploy recording", daemon=True)
        self._thread.start()

    def opened(self) -> None:
        """Let the library be the only one that writes."""
        os.close(self._writes)

    def join(self) -> None:
        """Wait until all is in the file; the library has written its last."""
        self._is_last = True
        self._thread.join()

    def _piece(self) -> bytes:
        """What was written since; nothing at the end, which no other process that got the pipe may hold up."""
        while not self._ready.poll(_LOOK_MS):
            if self._is_last:
                return b""
        return os.read(self._reads, _PIECE)

    def _pour(self) -> None:
        while piece := self._piece():
            try:
                while piece and self.error is None:
                    piece = piece[self._file.write(piece) :]
            except OSError as error:
                self.error = error
        os.close(self._reads)
        try:
            self._file.close()
        except OSError as error:  # some disks are full only now
            self.error = self.error or error
