"""What a log that is being written is, whatever it is stored in."""

from pathlib import Path
from typing import Protocol

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.runtime.ros.messages import Message

CDR = "cdr"


class Recording(Protocol):
    """A log on disk that grows; nothing is at its place before it is finished."""

    def add(self, topic: str, message: Message, logged_ns: int, *, latched: bool) -> None:
        """Append one message.

        Args:
            topic: absolute.
            message: one of ours.
            logged_ns: when it counts as recorded.
            latched: late subscribers get it too, when the log is played.

        Raises:
            E2EDeployError: it cannot be written.
        """
        ...

    def close(self) -> list[Path]:
        """Finish it and put it in its place; one that took no message leaves nothing.

        Raises:
            E2EDeployError: as ``add``.
        """
        ...


def failed(path: Path, error: Exception, kept: Path | None) -> E2EDeployError:
    """What to say of a log that cannot be written; ``kept`` holds what was recorded until then."""
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    told = f"; what was recorded until then is in {kept}" if kept else ""
    return E2EDeployError(f"{path} could not be written: {why}{told}")
