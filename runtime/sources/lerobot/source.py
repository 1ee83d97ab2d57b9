"""One camera of a LeRobot data set as a source: its episodes in order, each a video of its own."""

import math
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.sources.lerobot.data_set import INFO, DataSet, Episode
from e2e_deploy.runtime.sources.lerobot.pictures import VideoPictures, picture_in
from e2e_deploy.runtime.sources.lerobot.tables import rows
from e2e_deploy.runtime.sources.source import BaseSource, SourceFrame

_ROWS_AT_ONCE, PICTURES_AT_ONCE = 4096, 8


@dataclass(frozen=True)
class Placed:
    """A frame of a data set, before its picture is read.

    Attributes:
        episode: that it is of.
        index: its place there.
        row: its place in the file of rows.
        time_s: in the episode.
        shown_s: from the start of the first episode.
        cell: that holds its picture; None where none was read.
    """

    episode: Episode
    index: int
    row: int
    time_s: float
    shown_s: float
    cell: Any

    @property
    def name(self) -> str:
        """What its results' names begin with."""
        return f"episode-{self.episode.index:06d}-frame-{self.index:06d}"


def is_data_set(path: Path) -> bool:
    """Whether a folder says that it is one."""
    return os.path.isfile(path / INFO)  # False, too, for what no file system takes


class LeRobotSource(BaseSource):
    """Every frame of one camera, named after its episode and its place there; the first of an episode ``begins``.

    Frames are placed by the data set's time stamps; an episode follows the one before it.

    Args:
        root: the data set's folder.
        topic: key of the camera; None takes the only one.

    Attributes:
        data: what the data set says of itself.
        key: of the camera.
        episodes: all of them.

    Raises:
        UsageError: no such camera, or several to take from.
        SourceError: no data set of format 3.0, or damaged; also while iterating.
        UnavailableError: pyarrow is not installed.
    """

    def __init__(self, root: Path, topic: str | None = None) -> None:
        self.data = DataSet(root)
        self.key = self.topic = self.data.camera(topic)
        self.episodes = self.data.episodes(self.key)
        read = [episode.data for episode in self.episodes]
        read += [episode.video for episode in self.episodes if episode.video]
        files = [root / INFO, *self.data.episode_files, *dict.fromkeys(read)]
        name = f"{root} ({self.key})"
        super().__init__(name, fps=self.data.fps, total=self.data.total_frames, files=files)
        for file in dict.fromkeys(read):
            if not file.is_file():
                raise SourceError(f"{file} is missing from the data set")

    def __iter__(self) -> Iterator[SourceFrame]:
        self._begin()
        in_rows = not self.data.is_video(self.key)
        with closing(VideoPictures(self, self.data.fps)) as videos:
            for frame in self._placed(in_rows=in_rows):
                rgb = (
                    picture_in(frame.cell, f"{frame.name} of {self.name}", self)
                    if frame.episode.video is None
                    else videos.at(frame.episode.video, frame.episode.from_s + frame.time_s)
                )
                yield SourceFrame(
                    rgb,
                    frame.episode.start + frame.index,
                    frame.shown_s,
                    frame.name,
                    source=self.name,
                    shown_s=frame.shown_s,
                    duration_s=1 / self.data.fps,
                    begins=frame.index == 0,
                )

    def placed(self) -> Iterator[Placed]:
        """All of its frames in order; no picture is read.

        Raises:
            SourceError: a row is missing or damaged.
            UnavailableError: pyarrow is not installed.
        """
        return self._placed(in_rows=False)

    def _placed(self, *, in_rows: bool) -> Iterator[Placed]:
        start_s, frame_s = 0.0, 1 / self.data.fps
        with closing(_Rows(self.key if in_rows else None)) as table:
            for episode in self.episodes:
                last_s = -frame_s
                for index in range(episode.length):
                    row = table.next_of(episode)
                    time_s = self._time(row, episode, last_s)
                    cell = row[self.key] if in_rows else None
                    yield Placed(episode, index, table.count - 1, time_s, start_s + time_s, cell)
                    last_s = time_s
                start_s += max(episode.length * frame_s, last_s + frame_s)

    def _time(self, row: dict[str, Any], episode: Episode, last_s: float) -> float:
        time_s = row["timestamp"]
        if not isinstance(time_s, float) or not math.isfinite(time_s) or time_s <= last_s:
            raise SourceError(
                f"{episode.data}: the timestamps of episode {episode.index} must grow from 0; after {last_s:g} comes "
                f"{time_s}"
            )
        return time_s


class _Rows:
    """The rows of episodes in order, from the files that hold them.

    Args:
        key: of pictures that are read as well; None reads none.

    Attributes:
        count: of rows of the file that is open.
    """

    def __init__(self, key: str | None) -> None:
        self._columns = ["episode_index", "timestamp", *([] if key is None else [key])]
        self._at_once = _ROWS_AT_ONCE if key is None else PICTURES_AT_ONCE
        self.count = 0
        self._path: Path | None = None
        self._rows: Iterator[dict[str, Any]] = iter(())

    def next_of(self, episode: Episode) -> dict[str, Any]:
        """The next row, which is one of ``episode``.

        Raises:
            SourceError: it is not.
        """
        if episode.data != self._path:
            self.close()
            self._path, self.count = episode.data, 0
            self._rows = rows(episode.data, self._columns, at_once=self._at_once)
        row = next(self._rows, None)
        if row is None:
            raise SourceError(
                f"{episode.data} ends before the {episode.length} frames of episode {episode.index}"
            )
        if row["episode_index"] != episode.index:
            raise SourceError(
                f"{episode.data} holds a frame of episode {row['episode_index']} where meta/episodes says that episode "
                f"{episode.index} is"
            )
        self.count += 1
        return row

    def close(self) -> None:
        """Close the file that is open."""
        close = getattr(self._rows, "close", None)
        if close is not None:
            close()
