"""``lerobot:FOLDER``: a copy of the LeRobot data set that is run, with the metric depth of one camera as a key more."""

import os
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from e2e_deploy.bundle.manifest import Manifest
from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.runtime.backends.layout import Outcome
from e2e_deploy.runtime.sinks.lerobot.depth_codes import (
    LEAST_M,
    MOST_M,
    CodeStatistics,
    DepthCodes,
)
from e2e_deploy.runtime.sinks.lerobot.depth_videos import (
    CODEC,
    KEY_EVERY,
    PIXELS,
    PRESET,
    DepthVideos,
    Place,
)
from e2e_deploy.runtime.sinks.lerobot.new_data_set import (
    NewEpisode,
    check_lists,
    copy_rest,
    write_lists,
)
from e2e_deploy.runtime.sinks.opening import Opening
from e2e_deploy.runtime.sinks.sink import told_apart
from e2e_deploy.runtime.sources.lerobot.source import LeRobotSource
from e2e_deploy.runtime.sources.source import SourceFrame
from e2e_deploy.runtime.steps.step import Facts
from e2e_deploy.system.whole_folder import whole_folder

FARTHEST_M = 1000.0
_FORM = re.compile(r"lerobot:(.+?)(?:\?depth_max=([0-9.]{1,12}))?", re.IGNORECASE | re.DOTALL)
_MIB = 2**20


def open_lerobot(out: str, opening: Opening) -> "LeRobotSink":
    """The sink that ``out`` names: ``lerobot:FOLDER``, or ``lerobot:FOLDER?depth_max=METRES``.

    Raises:
        UsageError: not of that form; or what is run is no data set, has such a key, comes without metres or in parts.
        E2EDeployError: the folder cannot be written.
    """
    match = _FORM.fullmatch(out)
    most_m = float(match[2] or MOST_M) if match and (match[2] or "1").count(".") <= 1 else 0.0
    if match is None or "?" in match[1] or not LEAST_M < most_m <= FARTHEST_M:
        raise UsageError(
            f"`out` {out}: a data set is lerobot:FOLDER, or lerobot:FOLDER?depth_max=METRES with the farthest depth "
            f"that is told apart, up to {FARTHEST_M:g} ({MOST_M:g} if it is not given)"
        )
    source = opening.source
    if not isinstance(source, LeRobotSource):
        raise UsageError(
            f"`out` {out} is a copy of a LeRobot data set with depth, and {source.name} is none"
        )
    if not opening.is_metric or all(kind.form != "distance" for kind in opening.manifest.kinds):
        raise UsageError(
            f"`out` {out} keeps depth in metres, and this has none: add `metric_points`, or `camera_height_m` and "
            "`intrinsics`, to a bundle of depth or disparity"
        )
    if opening.limit is not None and opening.limit < source.data.total_frames:
        raise UsageError(
            f"`limit` does not go with `out` {out}: a data set has depth of all its {source.data.total_frames} frames"
        )
    # a shell expands ~ only where a word begins
    return LeRobotSink(
        Path(os.path.expanduser(match[1])), source, opening.manifest, DepthCodes(most_m)
    )


class LeRobotSink:
    """Writes the data set: whole when it is closed after the last frame, else nothing.

    Args:
        path: of the new folder.
        source: the data set, and the camera.
        manifest: the bundle's.
        codes: of depth.

    Raises:
        UsageError: there is a folder, or it would lie in the data set, or that has such a key.
        SourceError: the data set's lists are damaged.
        E2EDeployError: the folder cannot be written.
    """

    on_main_thread = False

    def __init__(
        self, path: Path, source: LeRobotSource, manifest: Manifest, codes: DepthCodes
    ) -> None:
        self.name = f"lerobot:{path}"
        self._path, self._source, self._manifest, self._codes = path, source, manifest, codes
        self._data, self._camera = source.data, source.key
        self._key = f"{self._camera}_depth"  # as lerobot's own robots call it
        if self._key in self._data.features:
            raise UsageError(f"{self._data.root} has a key {self._key!r} already")
        if path.resolve().is_relative_to(self._data.root.resolve()):
            raise UsageError(f"{path} lies in the data set {self._data.root}: name another folder")
        check_lists(self._data)
        self._hw: tuple[int, int] | None = None
        self._place: Place | None = None
        self._statistics, self._all = CodeStatistics(codes), CodeStatistics(codes)
        self._episodes: list[NewEpisode] = []
        self._start_s = 0.0
        self._pixels = self._too_far = self._unknown = 0
        self._stack = ExitStack()
        with ExitStack() as stack:
            self._folder = stack.enter_context(whole_folder(path, _nothing_of, source.note))
            copy_rest(self._data.root, self._folder)
            self._stack = stack.pop_all()
        self._videos = DepthVideos(
            self._folder,
            self._key,
            fps=self._data.fps,
            file_bytes=_MIB * self._setting("video_files_size_in_mb", 200),
            chunk_files=self._setting("chunks_size", 1000),
        )
        self._given_up = False

    def _setting(self, name: str, usual: int) -> int:
        value = self._data.info.get(name)
        return value if isinstance(value, int) and value > 0 else usual

    def write(self, frame: SourceFrame, result: Outcome, facts: Facts) -> None:
        """Take the next frame's depth.

        Raises:
            UsageError: its size is not that of the first.
            E2EDeployError: it cannot be written; nothing is left then.
        """
        try:
            self._write(frame, result, facts)
        except BaseException as error:
            self._give_up(error)
            raise

    def _write(self, frame: SourceFrame, result: Outcome, facts: Facts) -> None:
        metres = next(
            each
            for kind, each, _ in told_apart(self._manifest.kinds, result, facts)
            if kind.form == "distance"
        )
        hw = (metres.shape[0], metres.shape[1])
        if hw != (self._hw or hw):
            raise UsageError(
                f"{frame.name} is {hw[1]}x{hw[0]} and the first frame was another size: a key of a data set has one"
            )
        self._hw = hw
        shown_s = frame.shown_s or 0.0
        if frame.begins:
            self._finish_episode()
            self._place, self._start_s = self._videos.begin(hw), shown_s
        codes = self._codes.store(metres)
        self._videos.add(codes, shown_s - self._start_s)
        self._statistics.add(codes)
        self._all.add(codes)
        self._pixels += metres.size
        self._too_far += int(np.count_nonzero(metres > self._codes.most_m))
        self._unknown += int(np.count_nonzero(np.isnan(metres)))

    def _finish_episode(self) -> None:
        if self._place is not None:
            frames = self._statistics.frames
            self._episodes.append(NewEpisode(self._place, frames, self._statistics.told()))
            self._statistics = CodeStatistics(self._codes)

    def _give_up(self, error: BaseException) -> None:
        """Leave nothing."""
        self._given_up = True
        self._videos.give_up()
        self._stack.__exit__(type(error), error, error.__traceback__)

    def close(self) -> list[Path]:
        """Put the data set in its place.

        Raises:
            E2EDeployError: frames are missing, or it cannot be written; nothing is left then.
        """
        if self._given_up:
            return []
        self._given_up = True
        try:
            with self._stack:
                self._finish()
        except BaseException:
            self._videos.give_up()
            raise
        return [self._path]

    def _finish(self) -> None:
        frames, total = self._all.frames, self._data.total_frames
        if frames != total:
            raise E2EDeployError(
                f"{self._path} was not written: depth of {frames} of the {total} frames came, and a data set has all"
            )
        self._finish_episode()
        self._videos.close()
        write_lists(
            self._folder,
            self._data,
            self._key,
            self._feature(),
            self._episodes,
            self._all.told(),
            after=self._camera,
        )
        if self._too_far:
            self._source.note(
                f"{self._too_far / self._pixels:.1%} of the depth is beyond {self._codes.most_m:g} m and is kept as "
                f"{self._codes.most_m:g} m: out lerobot:FOLDER?depth_max=METRES keeps more"
            )
        if self._unknown:
            self._source.note(
                f"{self._unknown / self._pixels:.1%} of the depth is unknown and is kept as {LEAST_M:g} m, as where "
                "lerobot's cameras see nothing"
            )

    def _feature(self) -> dict[str, Any]:
        """The entry of the new key in meta/info.json, as lerobot writes it of a depth camera."""
        assert self._hw is not None
        height, width = self._hw
        checkpoint = self._manifest.checkpoint
        info = {
            "is_depth_map": True,
            "depth_unit": "m",
            "video.height": height,
            "video.width": width,
            "video.codec": CODEC,
            "video.pix_fmt": PIXELS,
            "video.fps": int(self._data.fps),
            "video.channels": 1,
            "has_audio": False,
            "video.g": KEY_EVERY,
            "video.crf": 30,  # without effect: lossless
            "video.preset": PRESET,
            "video.fast_decode": 0,
            "video.video_backend": "pyav",
            "video.extra_options": {"x265-params": "lossless=1"},
            **self._codes.told(),
            "e2e_deploy": {
                "checkpoint": checkpoint.id,
                "sha256": checkpoint.sha256,
                "precision": self._manifest.precision,
                "note": checkpoint.note,
            },
        }
        names = ["height", "width", "channels"]
        return {"dtype": "video", "shape": [height, width, 1], "names": names, "info": info}


def _nothing_of(folder: Path) -> list[str]:
    """Data sets are not replaced."""
    raise UsageError(f"{folder} is there already: name a new folder for the data set")
