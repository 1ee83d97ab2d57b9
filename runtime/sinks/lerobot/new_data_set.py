"""A data set with one key more: a copy of all files of another, but for its lists, which are written anew."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e_deploy.errors import SourceError
from e2e_deploy.packages import require
from e2e_deploy.runtime.sinks.lerobot.depth_videos import Place
from e2e_deploy.runtime.sources.lerobot.data_set import EPISODES, INFO, VIDEO_PATH, DataSet
from e2e_deploy.runtime.sources.lerobot.tables import batches
from e2e_deploy.system.files import open_regular
from e2e_deploy.system.json_files import read_json

STATS = "meta/stats.json"
MAX_STATS_BYTES = 2**28  # some dozen numbers a feature, but features may have thousands of values
_EPISODES_AT_ONCE = 1000
_NOT_COPIED = (".cache", ".git")  # of downloads: lerobot would take the copy for one


@dataclass(frozen=True)
class NewEpisode:
    """What is new of an episode.

    Attributes:
        place: of its depth.
        length: frames.
        statistics: of its depth.
    """

    place: Place
    length: int
    statistics: dict[str, Any]


def check_lists(old: DataSet) -> None:
    """Read all that ``write_lists`` will read, because a run may take hours until then.

    Raises:
        SourceError: a list is damaged.
    """
    _statistics(old)
    for file in old.episode_files:
        for _ in batches(file, ["episode_index"], at_once=_EPISODES_AT_ONCE, others=True):
            pass


def _statistics(old: DataSet) -> dict[str, Any] | None:
    """Those of all episodes; None where a data set has none."""
    path = old.root / STATS
    return read_json(path, error=SourceError, limit=MAX_STATS_BYTES) if path.exists() else None


def copy_rest(old: Path, new: Path) -> None:
    """Copy all of a data set that stays as it is. No file is shared, so that no change of one reaches the other.

    Links are followed, because a hub's cache is made of them.

    Raises:
        OSError: a file cannot be read or written, or is not a regular one.
    """
    seen = set()
    for folder, folders, files in os.walk(old, followlinks=True, onerror=_raised):
        here = Path(folder)
        seen.add(os.path.realpath(here))
        inside = here.relative_to(old)
        folders[:] = [
            name
            for name in folders
            if name not in _NOT_COPIED
            and (inside / name).as_posix() != EPISODES
            and os.path.realpath(here / name) not in seen
        ]
        (new / inside).mkdir(parents=True, exist_ok=True)
        for name in files:
            if (inside / name).as_posix() not in (INFO, STATS):
                with open_regular(here / name) as source, (new / inside / name).open("xb") as copy:
                    shutil.copyfileobj(source, copy, 2**20)


def _raised(error: OSError) -> None:
    raise error


def write_lists(
    new: Path,
    old: DataSet,
    key: str,
    feature: dict[str, Any],
    episodes: Sequence[NewEpisode],
    statistics: dict[str, Any],
    *,
    after: str,
) -> None:
    """Write meta/info.json, meta/stats.json and meta/episodes with the new key.

    Args:
        new: folder to write into.
        old: the data set that it is a copy of.
        key: the new one.
        feature: its entry.
        episodes: all of them.
        statistics: of all.
        after: the key that it comes after.

    Raises:
        SourceError: the old lists are damaged.
        OSError: a file cannot be written.
    """
    features: dict[str, Any] = {}
    for name, entry in old.features.items():
        features[name] = entry
        if name == after:
            features[key] = feature
    info = old.info | {"features": features, "video_path": VIDEO_PATH}
    _write(new / INFO, info)
    known = _statistics(old)
    if known is not None:
        _write(new / STATS, known | {key: statistics})
    for file in old.episode_files:
        _write_episodes(file, new / file.relative_to(old.root), key, episodes, old.fps)


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_episodes(
    old: Path, new: Path, key: str, episodes: Sequence[NewEpisode], fps: float
) -> None:
    """The list of episodes in one file, with the columns of the new key."""
    arrow, parquet = require("pyarrow", "robotics"), require("pyarrow.parquet", "robotics")
    new.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        writer = None
        for batch in batches(old, ["episode_index"], at_once=_EPISODES_AT_ONCE, others=True):
            table = arrow.Table.from_batches([batch])
            listed = [episodes[index] for index in table.column("episode_index").to_pylist()]
            for name, values, kind in _columns(arrow, key, listed, fps):
                table = table.append_column(name, arrow.array(values, kind))
            if writer is None:
                writer = stack.enter_context(parquet.ParquetWriter(new, table.schema))
            writer.write_table(table)


def _columns(
    arrow: Any, key: str, listed: list[NewEpisode], fps: float
) -> Iterator[tuple[str, list[Any], Any]]:
    """(name, values, type) of each new column."""
    whole, real = arrow.int64(), arrow.float64()
    yield f"videos/{key}/chunk_index", [each.place.chunk for each in listed], whole
    yield f"videos/{key}/file_index", [each.place.file for each in listed], whole
    yield f"videos/{key}/from_timestamp", [each.place.from_s for each in listed], real
    ends_s = [each.place.from_s + each.length / fps for each in listed]
    yield f"videos/{key}/to_timestamp", ends_s, real
    nested = arrow.list_(arrow.list_(arrow.list_(real)))
    for name in listed[0].statistics:
        kind = arrow.list_(whole) if name == "count" else nested
        yield f"stats/{key}/{name}", [each.statistics[name] for each in listed], kind
