"""All results of a run as a log that ROS 2, Foxglove and Rerun open; ``runtime/ros/topics.py`` says which topics."""

from pathlib import Path
from urllib.parse import parse_qsl

from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.runtime.backends.layout import Outcome
from e2e_deploy.runtime.ros.cameras import rays
from e2e_deploy.runtime.ros.topics import Topics, prefix_of
from e2e_deploy.runtime.sinks.bag.mcap_recording import McapRecording
from e2e_deploy.runtime.sinks.bag.recording import Recording
from e2e_deploy.runtime.sinks.bag.sqlite_recording import SqliteRecording
from e2e_deploy.runtime.sinks.opening import Opening
from e2e_deploy.runtime.sinks.sink import told_apart
from e2e_deploy.runtime.sources.source import SourceFrame
from e2e_deploy.runtime.steps.step import Facts
from e2e_deploy.system.text import clean

SETTINGS = ("prefix", "points", "depth_raw")
_LAST_NS = 2**63 - 1  # SQLite's integers have a sign


class BagSink:
    """An MCAP file, or an SQLite file of rosbag2.

    Stamps and coordinate frames are those of the source's pictures. Where these come from a log, a result counts as
    recorded when its picture was, so that both logs play and merge as one; else at its stamp.

    Args:
        out: ``log.mcap`` or ``log.db3``, and ``?prefix=/robot/depth`` for other topics than those beside the picture's,
            ``&points=1`` for point clouds of metric depth, ``&depth_raw=1`` for it in 16 bits of millimetres as well.
        opening: as every output gets it.

    Raises:
        UsageError: a setting that does not exist, has another value, or asks for points or millimetres that cannot be.
        E2EDeployError: no file can be written there.
        UnavailableError: the packages for logs are not installed.
    """

    on_main_thread = False

    def __init__(self, out: str, opening: Opening) -> None:
        place, _, query = out.partition("?")
        pairs = parse_qsl(query, keep_blank_values=True)
        settings = dict(pairs)
        if unknown := set(settings) - set(SETTINGS):
            raise UsageError(
                f"`out` {place} has no setting {', '.join(sorted(unknown))}; there are {', '.join(SETTINGS)}"
            )
        if len(settings) < len(pairs):
            raise UsageError(f"`out` {place} has a setting twice after the ?")
        for name in ("points", "depth_raw"):
            if settings.get(name, "0") not in ("0", "1"):
                raise UsageError(f"`out` {place}: {name} is 0 or 1, not {settings[name]!r}")
        self.name = place
        with_points = settings.get("points") == "1"
        with_millimetres = settings.get("depth_raw") == "1"
        if with_millimetres and not opening.is_metric:
            raise UsageError(
                f"`out` {place}: depth_raw is metric depth, which needs `metric_points` or `camera_height_m`"
            )
        is_known = opening.intrinsics is not None or opening.source.camera is not None
        if with_points and not (opening.is_metric and is_known):
            raise UsageError(
                f"`out` {place}: points need metric depth (`metric_points` or `camera_height_m`) and a camera that is "
                "known (`intrinsics`, or the CameraInfo of a log)"
            )
        camera = opening.source.camera if opening.intrinsics is None else None
        if with_points and camera is not None and rays(camera) is None:
            raise UsageError(
                f"`out` {place}: no points, because a lens of model {clean(camera.distortion_model, 40)!r} cannot be "
                "undone: give rectified pictures, or their `intrinsics`"
            )
        self._kinds = opening.manifest.kinds
        self._topics = Topics(
            opening.manifest,
            settings.get("prefix", prefix_of(opening.source.topic)),
            is_live=opening.source.is_live,
            intrinsics=opening.intrinsics,
            with_points=with_points,
            with_millimetres=with_millimetres,
        )
        path = Path(place)
        self._recording: Recording = (
            McapRecording(path)
            if path.suffix.lower() == ".mcap"
            else SqliteRecording(path, opening.source.notes.append)
        )

    def write(self, frame: SourceFrame, results: Outcome, facts: Facts) -> None:
        """Append the messages of one frame.

        Raises:
            E2EDeployError: the file cannot be written.
        """
        published = self._topics.messages_for(frame, told_apart(self._kinds, results, facts))
        logged_ns = self._topics.clock(frame) if frame.logged_ns is None else frame.logged_ns
        if not 0 <= logged_ns <= _LAST_NS:
            raise E2EDeployError(f"{self.name}: logs hold no message of the time {logged_ns:,} ns")
        for each in published:
            self._recording.add(each.topic, each.message, logged_ns, latched=each.latched)

    def close(self) -> list[Path]:
        """Finish the file."""
        return self._recording.close()
