"""One camera of a LeRobot data set as a source: its episodes in order, each a video of its own."""

import math
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.sources.lerobot.data_set import INFO, DataSet, Episode
from e2e_deploy.runtime.sources.lerobot.pictures import Rgb, VideoPictures, picture_in
from e2e_deploy.runtime.sources.lerobot.tables import rows
from e2e_deploy.runtime.sources.source import BaseSource, SourceFrame

_ROWS_AT_ONCE, _PICTURES_AT_ONCE = 4096, 8


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
        start_s, frame_s = 0.0, 1 / self.data.fps
        with closing(_Rows(self)) as table, closing(VideoPictures(self, self.data.fps)) as videos:
            for episode in self.episodes:
                last_s = -frame_s
                for index in range(episode.length):
                    row = table.next_of(episode)
                    time_s = self._time(row, episode, last_s)
                    name = f"episode-{episode.index:06d}-frame-{index:06d}"
                    yield SourceFrame(
                        self._picture(row, episode, time_s, name, videos),
                        episode.start + index,
                        start_s + time_s,
                        name,
                        source=self.name,
                        shown_s=start_s + time_s,
                        duration_s=frame_s,
                        begins=index == 0,
                    )
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

    def _picture(
        self, row: dict[str, Any], episode: Episode, time_s: float, name: str, videos: VideoPictures
    ) -> Rgb:
        if episode.video is None:
            return picture_in(row[self.key], f"{name} of {self.name}", self)
        return videos.at(episode.video, episode.from_s + time_s)


class _Rows:
    """The rows of episodes in order, from the files that hold them."""

    def __init__(self, source: LeRobotSource) -> None:
        in_rows = not source.data.is_video(source.key)
        self._columns = ["episode_index", "timestamp", *([source.key] if in_rows else [])]
        self._at_once = _PICTURES_AT_ONCE if in_rows else _ROWS_AT_ONCE
        self._path: Path | None = None
        self._rows: Iterator[dict[str, Any]] = iter(())

    def next_of(self, episode: Episode) -> dict[str, Any]:
        """The next row, which is one of ``episode``.

        Raises:
            SourceError: it is not.
        """
        if episode.data != self._path:
            self.close()
            self._path = episode.data
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
        return row

    def close(self) -> None:
        """Close the file that is open."""
        close = getattr(self._rows, "close", None)
        if close is not None:
            close()
