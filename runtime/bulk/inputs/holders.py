"""Which files and folders hold many items, by their names, and the one that lists each kind."""

from collections.abc import Callable
from pathlib import Path

from e2e_deploy.runtime.bulk.inputs import data_sets, logs, tars, videos
from e2e_deploy.runtime.bulk.inputs.holder import Held

Lister = Callable[[Path, str | None], Held]
"""Of a path and the topic that was asked for."""


def lister_of(path: Path) -> Lister | None:
    """What lists the items in a file or folder; None for a picture, and for all that is not read."""
    suffix = path.suffix.lower()
    if data_sets.is_data_set(path):
        return data_sets.list_data_set
    if suffix in tars.SUFFIXES:
        return lambda path, topic: tars.list_tar(path)
    if suffix in logs.SUFFIXES if path.is_file() else logs.is_bag(path):
        return logs.list_log
    if suffix in videos.SUFFIXES:
        return lambda path, topic: videos.list_video(path)
    return None
