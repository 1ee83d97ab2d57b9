"""A LeRobot data set of format 3.0 in a folder: what its meta files say, checked.

    meta/info.json                             features, rate, counts
    meta/episodes/chunk-000/file-000.parquet   an episode a row: its length, where its rows and pictures are, statistics
    data/chunk-000/file-000.parquet            a frame a row, of many episodes
    videos/<key>/chunk-000/file-000.mp4        pictures of one camera, episode after episode

Seen in lerobot 0.6.1, ``lerobot.datasets``. Does not know: the pictures themselves.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e_deploy.errors import SourceError, UsageError
from e2e_deploy.runtime.sources.lerobot.tables import opened, rows
from e2e_deploy.system.json_files import read_json
from e2e_deploy.system.text import clean

INFO = "meta/info.json"
EPISODES = "meta/episodes"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
MAX_EPISODES, MAX_FRAMES, MAX_FPS = 10**6, 10**9, 1000.0
_PICTURES = ("video", "image")
_KEY = re.compile(r"\w[\w.\-]{0,199}")  # a folder is called so
_EPISODES_AT_ONCE = 1000


@dataclass(frozen=True)
class Episode:
    """One of them.

    Attributes:
        index: 0-based.
        start: index in the data set of its first frame.
        length: frames.
        data: file of its rows.
        video: file of its pictures; None where they lie in ``data``.
        from_s: where it begins in ``video``, in seconds.
    """

    index: int
    start: int
    length: int
    data: Path
    video: Path | None
    from_s: float


class DataSet:
    """A data set's folder.

    Attributes:
        root: its folder.
        info: all of meta/info.json.
        fps: frames a second.
        total_episodes: 1 or more.
        total_frames: of all episodes.

    Raises:
        SourceError: not a data set, of another format, or damaged.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.info = read_json(root / INFO, error=SourceError)
        version = self.info.get("codebase_version")
        if not (isinstance(version, str) and re.fullmatch(r"v3\.\d{1,3}(\.\d{1,3})?", version)):
            shown = clean(str(version), 40)
            raise SourceError(
                f"{root} is a LeRobot data set of format {shown}; 3.0 is read: convert older ones with lerobot's "
                "scripts/convert_dataset_v21_to_v30.py"
            )
        fps = self.info.get("fps")
        if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps <= MAX_FPS:
            raise self._wrong(f"fps is {fps!r}; it must be above 0 and at most {MAX_FPS:g}")
        self.fps = float(fps)
        self.total_episodes = self._count("total_episodes", MAX_EPISODES)
        self.total_frames = self._count("total_frames", MAX_FRAMES)
        self.features = self._features()

    def _wrong(self, what: str) -> SourceError:
        return SourceError(f"{self.root / INFO}: {clean(what)}")

    def _count(self, name: str, most: int) -> int:
        value = self.info.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise self._wrong(f"{name} is {value!r}; it must be a number from 1 to {most:,}")
        return value

    def _features(self) -> dict[str, dict[str, Any]]:
        features = self.info.get("features")
        if not isinstance(features, dict) or not all(
            isinstance(feature, dict) and isinstance(feature.get("dtype"), str)
            for feature in features.values()
        ):
            raise self._wrong("features must be objects with a dtype")
        return features

    @property
    def cameras(self) -> list[str]:
        """Keys of its pictures; depth maps are none."""
        return [
            key
            for key, feature in self.features.items()
            if feature["dtype"] in _PICTURES and not _is_depth(feature)
        ]

    def camera(self, topic: str | None) -> str:
        """The key that ``topic`` names; None takes the only one.

        Raises:
            UsageError: it names none, or there are several to take from.
            SourceError: there is none, or no folder can have its name.
        """
        cameras = self.cameras
        known = ", ".join(cameras)
        if not cameras:
            raise SourceError(f"{self.root} has no pictures: no feature is a video or an image")
        if topic is None and len(cameras) > 1:
            raise UsageError(f"{self.root} has several cameras; `topic` says which: {known}")
        key = cameras[0] if topic is None else topic
        if key not in cameras:
            what = "is a depth map" if key in self.features else "is none of its keys"
            if key in self.features and not _is_depth(self.features[key]):
                what = f"is {self.features[key]['dtype']}, no pictures"
            raise UsageError(f"{self.root}: {key!r} {what}; its cameras are {known}")
        if not _KEY.fullmatch(key):
            raise self._wrong(
                f"the key {key!r} is no name of a camera: letters, digits, dots and dashes"
            )
        return key

    def is_video(self, key: str) -> bool:
        """Whether the pictures of ``key`` are in video files; else they are in the rows."""
        return bool(self.features[key]["dtype"] == "video")

    @property
    def episode_files(self) -> list[Path]:
        """Where the episodes are listed, in order."""
        return sorted((self.root / EPISODES).glob("*/*.parquet"))

    def episodes(self, key: str) -> list[Episode]:
        """All episodes, with the pictures of the camera ``key``.

        Raises:
            SourceError: the list is damaged, or does not agree with the counts of meta/info.json.
            UnavailableError: pyarrow is not installed.
        """
        self._check_layout(key)
        files = self.episode_files
        if not files:
            raise SourceError(
                f"{self.root / EPISODES} holds no Parquet file: the list of episodes is missing"
            )
        names = ["episode_index", "length", "dataset_from_index"]
        names += ["data/chunk_index", "data/file_index"]
        if self.is_video(key):
            names += [f"videos/{key}/{name}" for name in ("chunk_index", "file_index")]
            names.append(f"videos/{key}/from_timestamp")
        found: list[Episode] = []
        for file in files:
            with opened(file) as parquet:
                listed = len(found) + parquet.metadata.num_rows
            if listed > self.total_episodes:
                raise self._wrong(
                    f"total_episodes is {self.total_episodes}, and meta/episodes lists more"
                )
            for row in rows(file, names, at_once=_EPISODES_AT_ONCE):
                found.append(self._episode(file, row, key, found))
        frames = found[-1].start + found[-1].length if found else 0
        if (len(found), frames) != (self.total_episodes, self.total_frames):
            raise self._wrong(
                f"it counts {self.total_episodes} episodes with {self.total_frames} frames, and meta/episodes lists "
                f"{len(found)} with {frames}"
            )
        return found

    def _check_layout(self, key: str) -> None:
        for name, usual in (("data_path", DATA_PATH), ("video_path", VIDEO_PATH)):
            given = self.info.get(name, usual)
            if given != usual and (name == "data_path" or self.is_video(key)):
                raise self._wrong(f"{name} is {given!r}; data sets with {usual} are read")

    def _episode(self, file: Path, row: dict[str, Any], key: str, before: list[Episode]) -> Episode:
        index, start = len(before), before[-1].start + before[-1].length if before else 0
        prefix = f"videos/{key}/"
        from_s = row.get(f"{prefix}from_timestamp", 0.0)
        numbers = [value for name, value in row.items() if name != f"{prefix}from_timestamp"]
        whole = all(isinstance(value, int) and 0 <= value <= MAX_FRAMES for value in numbers)
        if not whole or not isinstance(from_s, float) or not 0 <= from_s < math.inf:
            raise SourceError(f"{file}: a place or a length of episode {index} is no number")
        if (row["episode_index"], row["dataset_from_index"]) != (index, start) or not row["length"]:
            raise SourceError(
                f"{file}: after {index} episodes with {start} frames comes episode {row['episode_index']} from frame "
                f"{row['dataset_from_index']} with {row['length']}; they must follow each other"
            )
        video = None
        if self.is_video(key):
            video = self.root / VIDEO_PATH.format(
                video_key=key,
                chunk_index=row[f"{prefix}chunk_index"],
                file_index=row[f"{prefix}file_index"],
            )
        data = DATA_PATH.format(
            chunk_index=row["data/chunk_index"], file_index=row["data/file_index"]
        )
        return Episode(index, start, row["length"], self.root / data, video, from_s)


def _is_depth(feature: dict[str, Any]) -> bool:
    """Whether pictures are depth maps, by any of the marks that lerobot knows."""
    about = [feature.get(name) for name in ("info", "video_info")]
    marks = ("is_depth_map", "video.is_depth_map")
    return any(isinstance(told, dict) and any(map(told.get, marks)) for told in about)
