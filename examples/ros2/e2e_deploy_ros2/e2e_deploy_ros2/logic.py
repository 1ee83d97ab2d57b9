"""What the node does, without ROS: pictures in, messages out, and the states of a managed node.

    unconfigured -- configure --> inactive -- activate --> active
                 <-- cleanup ---          <- deactivate --        ; shutdown from everywhere

Pictures are put in by one thread and take no time there. A thread of its own takes the newest when the engine is free,
so a result is no older than one waiting picture and the engine's own time, however slow the engine is.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import e2e_deploy as e2e
from e2e_deploy.frames import parse_size
from e2e_deploy.runtime.camera.camera_info import CameraInfo
from e2e_deploy.runtime.ros import messages
from e2e_deploy.runtime.ros.cameras import camera_of
from e2e_deploy.runtime.ros.messages import CompressedImage, Image, Message
from e2e_deploy.runtime.ros.topics import Published, Topics, is_rectified, prefix_of
from e2e_deploy.runtime.sinks.sink import told_apart
from e2e_deploy.runtime.steps.metric import read_points
from e2e_deploy.system.interrupts import WorkThread
from e2e_deploy_ros2.parameters import DEFAULTS, PARAMETERS, refusal
from e2e_deploy_ros2.status import ERROR, OK, SILENCE_S, WARN, Diagnosis, Rates
from e2e_deploy_ros2.topic_source import TopicSource

UNCONFIGURED, INACTIVE, ACTIVE, FINALIZED = "unconfigured", "inactive", "active", "finalized"
PATIENCE_S = 5.0  # for a frame that is in the engine

Publish = Callable[[Published], None]


class StateError(e2e.UsageError):
    """A transition that the present state does not have."""


class DepthLogic:
    """A bundle on a topic.

    Args:
        topic: of the pictures, as it is after remapping.
        publish: called with every message, in a thread of its own.
        now_ns: the clock that stamps are of.

    Attributes:
        state: one of the four.
        parameters: those in force.
    """

    def __init__(
        self, topic: str, publish: Publish, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self.state = UNCONFIGURED
        self.parameters: dict[str, Any] = dict(DEFAULTS)
        self._topic, self._publish, self._now_ns = topic, publish, now_ns
        self._engine: e2e.Engine | None = None
        self._camera: CameraInfo | None = None
        self._camera_said = "none came"
        self._run: _Run | None = None
        self._left: list[_Run] = []
        self._rates = Rates()

    # ------------------------------------------------------------------------------------------- transitions

    def configure(self, values: Mapping[str, Any]) -> list[tuple[str, type[Message], bool]]:
        """Load the bundle.

        Returns:
            Each topic that may come: its name, its message, whether it is latched.

        Raises:
            E2EDeployError: a parameter, a bundle or a device that cannot be; the state stays as it was.
        """
        self._require(UNCONFIGURED)
        if why := refusal(values, configured=False):
            raise e2e.UsageError(why)
        wanted = DEFAULTS | {name: value for name, value in values.items() if name in PARAMETERS}
        _intrinsics(wanted)
        size = wanted["frame_size"]
        engine = e2e.load(
            wanted["bundle"] or e2e.READY_BUNDLE,
            backend=wanted["backend"],
            device=wanted["device"],
            frame_size=parse_size(size) if size else None,
        )
        try:
            topics = self._topics(engine, wanted)
            self._check(engine, wanted)
        except BaseException:
            engine.close()
            raise
        self.parameters, self._engine, self.state = wanted, engine, INACTIVE
        return topics.advertised(is_metric=wanted["metric"] != "none")

    def activate(self) -> None:
        """Take pictures from now on."""
        self._require(INACTIVE)
        self._rates = Rates()
        self.state = ACTIVE
        self._start()

    def deactivate(self) -> bool:
        """Take no further picture; what is in the engine is still published if it ends within PATIENCE_S.

        Returns:
            Whether it did.
        """
        self._require(ACTIVE)
        self.state = INACTIVE
        return self._stop()

    def cleanup(self) -> bool:
        """Close the engine; False if it still computes, which is then left to end by itself."""
        self._require(INACTIVE)
        self.state = UNCONFIGURED
        return self._close()

    def shutdown(self) -> bool:
        """End in whatever state it is; False if a frame is still in the engine after PATIENCE_S."""
        self.state = FINALIZED
        self._stop()
        self._close()
        return not any(run.thread.works for run in self._left)

    # ------------------------------------------------------------------------------------------- messages

    def on_picture(self, message: Image | CompressedImage) -> None:
        """A picture came."""
        if self._run is not None:
            self._run.source.put(message, self._camera)

    def on_camera_info(self, message: messages.CameraInfo) -> None:
        """What the camera says; a change of it begins anew where metres depend on it."""
        try:
            camera = camera_of(message, rectified=is_rectified(self._topic))
        except e2e.SourceError as error:
            self._camera_said = str(error)
            return
        self._camera_said = "calibrated" if camera.is_calibrated else "it is not calibrated"
        known = camera if camera.is_calibrated else None
        if known == self._camera:
            return
        self._camera = known
        if self.state == ACTIVE and self.parameters["metric"] == "ground":
            self._restart()

    # ------------------------------------------------------------------------------------------- parameters

    def refusal(self, changes: Mapping[str, Any]) -> str:
        """Why parameters cannot change so now; empty if they can."""
        configured = self.state in (INACTIVE, ACTIVE)
        if why := refusal(changes, configured=configured):
            return why
        wanted = self.parameters | {k: v for k, v in changes.items() if k in PARAMETERS}
        try:
            _intrinsics(wanted)
            if self._engine is not None:
                self._check(self._engine, wanted)
        except e2e.E2EDeployError as error:
            return str(error)
        return ""

    def reconfigure(self, changes: Mapping[str, Any]) -> None:
        """Change parameters that ``refusal`` lets through; the engine stays loaded."""
        ours = {name: value for name, value in changes.items() if name in PARAMETERS}
        before, self.parameters = self.parameters, self.parameters | ours
        if self.state == ACTIVE and self.parameters != before:
            self._restart()

    # ------------------------------------------------------------------------------------------- diagnostics

    def diagnose(self) -> Diagnosis:
        """How it goes."""
        engine, run = self._engine, self._run
        values = [("state", self.state), ("topic", self._topic)]
        if engine is not None:
            values += [("engine", engine.describe()), ("bundle", engine.bundle.root.name)]
            values += [("note", engine.manifest.checkpoint.note)] * bool(
                engine.manifest.checkpoint.note
            )
        if self.state != ACTIVE:
            return Diagnosis(OK, self.state, values)
        level, message = OK, "pictures become results"
        values.append(("camera_info", self._camera_said))
        if run is None:
            why = self._camera_said
            return Diagnosis(WARN, f"metric: ground waits for a camera_info ({why})", values)
        values += self._rates.values()
        values += run.values()
        if run.failure:
            level, message = ERROR, run.failure
        elif run.parity_outside:
            level, message = WARN, "results are outside the limit of parity"
        elif run.metric_failure:
            level, message = WARN, f"no metres: {run.metric_failure}"
        elif self._rates.silent_s > SILENCE_S:
            damaged = run.source.notes[-1] if run.source.skipped else ""
            silent = f"no result for {self._rates.silent_s:.0f} s"
            what = f"pictures come and cannot be used: {damaged}" if damaged else silent
            level, message = WARN, what
        return Diagnosis(level, message, values)

    # ------------------------------------------------------------------------------------------- inside

    def _require(self, state: str) -> None:
        if self.state != state:
            raise StateError(f"the node is {self.state}, and this begins where it is {state}")

    def _topics(self, engine: e2e.Engine, wanted: Mapping[str, Any]) -> Topics:
        return Topics(
            engine.manifest,
            wanted["prefix"] or prefix_of(self._topic),
            is_live=True,
            intrinsics=_intrinsics(wanted),
            with_picture=wanted["publish_picture"],
            with_points=wanted["publish_points"],
            with_millimetres=wanted["publish_millimetres"],
        )

    def _check(self, engine: e2e.Engine, wanted: Mapping[str, Any]) -> None:
        """Raise what would be raised when a run begins, while it can still be refused."""
        forms = {kind.form for kind in engine.manifest.kinds}
        given = " and ".join(engine.outputs)
        if engine.batch > 1:
            raise e2e.UsageError(
                f"the bundle takes {engine.batch} frames at once, and a camera gives one: export it without `batch`"
            )
        for name in ("publish_points", "publish_millimetres"):
            if wanted[name] and wanted["metric"] == "none":
                raise e2e.UsageError(f"{name} needs metric depth: set metric to ground or points")
        for name in ("steady", "metric"):
            if wanted[name] not in (False, "none") and "distance" not in forms:
                raise e2e.UsageError(
                    f"{name} is for depth and disparity, and the bundle gives {given}"
                )
        if wanted["metric"] == "points":
            if not wanted["metric_points"]:
                raise e2e.UsageError("metric: points needs metric_points, a file")
            read_points(Path(wanted["metric_points"]))

    def _restart(self) -> None:
        self._stop()
        self._start()

    def _start(self) -> None:
        engine, wanted = self._engine, self.parameters
        assert engine is not None
        asks_camera = wanted["metric"] == "ground" and _intrinsics(wanted) is None
        if asks_camera and self._camera is None:
            return  # until a camera_info comes
        source = TopicSource(self._topic, self._camera if asks_camera else None)
        topics = self._topics(engine, wanted)
        self._run = _Run(engine, source, topics, wanted, self._sent, after=self._left)
        self._run.thread.start()

    def _sent(self, run: "_Run", frame: e2e.SourceFrame, found: list[Published]) -> None:
        """Publish the messages of one result, unless its run has ended meanwhile."""
        if run is not self._run:
            return
        for each in found:
            self._publish(each)
        age_s = (self._now_ns() - frame.stamp_ns) / 1e9 if frame.stamp_ns else None
        self._rates.published(time.monotonic() - frame.captured_s, age_s)

    def _stop(self) -> bool:
        run = self._run
        if run is None:
            return True
        run.source.stop()
        ended = run.thread.wait(PATIENCE_S)
        self._run = None
        self._left = [each for each in [*self._left, run] if each.thread.works]
        return ended

    def _close(self) -> bool:
        engine, self._engine = self._engine, None
        if engine is None:
            return True
        if any(run.thread.works for run in self._left):
            return False  # closing would wait for it
        engine.close()
        return True


class _Run:
    """One run of the engine on a source, in a thread of its own; it is the run's sink too.

    It begins when those before it, ``after``, have left the engine.
    """

    name, on_main_thread = "topics", False

    def __init__(
        self,
        engine: e2e.Engine,
        source: TopicSource,
        topics: Topics,
        wanted: Mapping[str, Any],
        sent: Callable[["_Run", e2e.SourceFrame, list[Published]], None],
        after: list["_Run"],
    ) -> None:
        self.source, self.failure = source, ""
        self._after = list(after)
        self._engine, self._topics, self._wanted, self._sent = engine, topics, wanted, sent
        self._report: e2e.RunReport | None = None
        self.thread = WorkThread(self._work, "topics")

    def write(self, frame: e2e.SourceFrame, result: Any, facts: Any) -> None:
        """One result, in a thread of the run."""
        told = told_apart(self._engine.manifest.kinds, result, facts)
        self._sent(self, frame, self._topics.messages_for(frame, told))

    def close(self) -> list[Path]:
        """Nothing was written."""
        return []

    def _work(self) -> None:
        wanted, metric = self._wanted, self._wanted["metric"]
        on_ground = metric == "ground"
        for before in self._after:
            while not (before.thread.wait(0.05) or self.source.is_stopped):
                pass
        self._after.clear()
        try:
            e2e.run(
                self.source,
                self._engine,
                sinks=[self],
                steps=[self.source.taken],
                steady=wanted["steady"],
                metric_points=wanted["metric_points"] if metric == "points" else None,
                camera_height_m=wanted["camera_height_m"] if on_ground else None,
                camera_pitch_deg=wanted["camera_pitch_deg"] if on_ground else None,
                intrinsics=_intrinsics(wanted) if on_ground else None,
                parity_every=wanted["parity_every"] or None,
                on_frame=self._seen,
            )
        except e2e.E2EDeployError as error:
            self.failure = str(error)
        except Exception as error:  # a node goes on to say so
            self.failure = f"{type(error).__name__}: {error}"

    def _seen(self, report: e2e.RunReport) -> None:
        self._report = report

    @property
    def parity_outside(self) -> int:
        """Comparisons outside the limit."""
        parity = self._report.parity if self._report else None
        return 0 if parity is None else parity.outside

    @property
    def metric_failure(self) -> str:
        """Why frames have no metres, if not one has."""
        report = self._report
        return report.failed_step if report and 0 < report.frames <= report.failed_steps else ""

    def values(self) -> list[tuple[str, str]]:
        """Counts for the diagnostics."""
        source, report = self.source, self._report
        counts = {"received": source.received, "dropped": source.dropped, "damaged": source.skipped}
        told = [(name, str(count)) for name, count in counts.items()]
        if report is None:
            return told
        if report.failed_steps:
            told.append(("without metres", str(report.failed_steps)))
        if (latency := report.latency) is not None:
            told.append(("engine p50 (ms)", f"{latency.p50_ms:.1f}"))
        if report.parity is not None:
            told.append(("parity", report.parity.words() or report.parity.no_live or "not yet"))
        return told


def _intrinsics(wanted: Mapping[str, Any]) -> e2e.Intrinsics | None:
    return e2e.Intrinsics.parse(wanted["intrinsics"]) if wanted["intrinsics"] else None
