"""Which files and folders hold many items, and the one that lists each kind."""

from collections.abc import Callable
from pathlib import Path

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.bulk.inputs import data_sets, lists, logs, tars, videos
from e2e_deploy.runtime.bulk.inputs.holder import Held
from e2e_deploy.runtime.sources.bag.bag_source import is_log
from e2e_deploy.runtime.sources.picture_file import PICTURE_SUFFIXES, is_picture

Lister = Callable[[Path, str | None], Held]
"""Of a path and the topic that was asked for."""


def lister_of(path: Path) -> Lister | None:
    """What lists the items in a file or folder, by its name; None for a picture, and for all that is not read."""
    suffix = path.suffix.lower()
    if suffix in PICTURE_SUFFIXES:  # nothing on the disk is asked for each of very many
        return None
    if data_sets.is_data_set(path):
        return data_sets.list_data_set
    if suffix in tars.SUFFIXES:
        return lambda path, topic: tars.list_tar(path)
    if suffix in logs.SUFFIXES if path.is_file() else logs.is_bag(path):
        return logs.list_log
    if suffix in videos.SUFFIXES:
        return lambda path, topic: videos.list_video(path)
    return None


def lister_by_content(path: Path) -> Lister | None:
    """The same of a file whose name does not tell; None for a picture. What is neither is tried as a video.

    Raises:
        OSError: it cannot be read.
    """
    if is_log(path):
        return logs.list_log
    if is_picture(path) and path.suffix.lower() != ".gif":
        return None
    return _tried


def _tried(path: Path, topic: str | None) -> Held:
    try:
        return videos.list_video(path)
    except SourceError as error:
        known = ", ".join((*lists.SUFFIXES, *tars.SUFFIXES))
        raise SourceError(
            f"{path} is no list and no tar by its name ({known}), and was tried as a video: {error}"
        ) from None
