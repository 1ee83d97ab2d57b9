"""What a sink is, results as colours and as 16 bits, and the sinks without files: a window and a function.

``picture_sink.py`` and ``video_sink.py`` write files: whole or not at all, with what is to be known of their numbers.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle.manifest import Manifest
from e2e_deploy.colormap import DisplayRange, colour_result, write_note
from e2e_deploy.errors import UnavailableError, UsageError
from e2e_deploy.kinds import KINDS, Kind
from e2e_deploy.names import Colormap
from e2e_deploy.runtime.backends.layout import Outcome, Result, Results, by_kind
from e2e_deploy.runtime.camera.axes import CAMERA
from e2e_deploy.runtime.fit import Fit
from e2e_deploy.runtime.sources.source import SourceFrame
from e2e_deploy.runtime.steps.axes import in_camera_axes
from e2e_deploy.runtime.steps.step import Facts
from e2e_deploy.system.opencv import cv2

Rgb = npt.NDArray[np.uint8]
UNKNOWN = 0  # in 16-bit files; as in ROS (REP-118), where 0 is no measurement


class Sink(Protocol):
    """Takes frames with their results, in order, in a thread of its own.

    Attributes:
        name: what it is, for people.
        on_main_thread: whether it must be called in the main thread, as windows must.

    One that sends results to others may have ``dropped``, the number of those that were not taken in time.
    """

    name: str
    on_main_thread: bool

    def write(self, frame: SourceFrame, result: Any, facts: Facts) -> None:
        """Take one result, depth [H, W] or normals [H, W, 3] at the frame's size, and what steps did to it.

        Of an engine with several outputs both are mappings by their names: an array, and Facts, of each. Other sinks
        see the same arrays: nothing may be changed in them.
        """
        ...

    def close(self) -> list[Path]:
        """Finish, and return the files that were written."""
        ...


class Painter:
    """Results as RGB pictures, with the display range of one source and the note of its weights. One a sink.

    Args:
        manifest: the bundle's.
        colormap: of distances.
        is_video: whether the display range follows slowly.
        kind: of the one result it is given; None: it is given all of the bundle's, and puts them side by side.

    Attributes:
        note: what must be said about the weights, or empty.
        is_video: whether the display range follows slowly.
        colormap: may be changed between pictures.
        fixed: (low, high) of the display range; None follows the pictures.
    """

    def __init__(
        self,
        manifest: Manifest,
        colormap: Colormap,
        *,
        is_video: bool,
        kind: Kind | None = None,
    ) -> None:
        self.note = manifest.checkpoint.note
        self.is_video, self.colormap = is_video, colormap
        self.fixed: tuple[float, float] | None = None
        self._kinds = manifest.kinds if kind is None else (kind,)
        self._follow = 0.1 if is_video else 1.0
        self._ranges = {kind: DisplayRange(self._follow) for kind in self._kinds}

    def __call__(self, given: Outcome, facts: Facts) -> Rgb:
        """The result as uint8 RGB [H, W, 3]; a scene cut starts a new display range."""
        pictures = [self._painted(*each) for each in told_apart(self._kinds, given, facts)]
        both = pictures[0] if len(pictures) == 1 else np.concatenate(pictures, axis=1)
        return write_note(both, self.note)

    def _painted(self, kind: Kind, result: Result, facts: Facts) -> Rgb:
        if facts.get("steady", {}).get("cut"):
            self._ranges[kind] = DisplayRange(self._follow)
        shown = self.fixed or (0.0, 1.0)
        if kind.form == "distance":
            followed = self._ranges[kind].update(result)
            shown = self.fixed or followed
        # Metres are depth, whatever kind they were made of.
        kind = KINDS["depth"] if facts.get("metric") else kind
        return colour_result(kind, in_camera_axes(result, facts), self.colormap, shown)


class Canvas:
    """Pictures for a video: painted results, alone or beside their frames, all of the first one's size.

    Args:
        painter: paints the results.
        name: of the video, for messages.
        side_by_side: the frame on the left.

    Attributes:
        note: what must be said about the weights, or empty.
    """

    def __init__(self, painter: Painter, name: str, *, side_by_side: bool) -> None:
        self.note = painter.note
        self._painter, self._name, self._side_by_side = painter, name, side_by_side
        self._hw: tuple[int, int] | None = None

    def __call__(self, frame: SourceFrame, result: Outcome, facts: Facts) -> Rgb:
        """uint8 RGB [H, W, 3] with even sides; a video that changes its size is fitted into that of its first frame.

        Raises:
            UsageError: a picture, which is of no video, has another size than the first.
        """
        picture = self._painter(result, facts)
        if self._side_by_side:
            picture = np.concatenate([frame.rgb, picture], axis=1)
        # Where two pixels share a colour, sides are even.
        picture = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
        hw = (picture.shape[0], picture.shape[1])
        self._hw = self._hw or hw
        if hw == self._hw:
            return picture
        if not self._painter.is_video:
            raise UsageError(
                f"{frame.name} gives {hw[1]}x{hw[0]}, but {self._name} began with {self._hw[1]}x{self._hw[0]}; "
                "pictures of several sizes need a folder as `out`"
            )
        return Fit(hw, self._hw).to_engine(picture)


@dataclass(frozen=True)
class SixteenBits:
    """How 16-bit files hold values of a range: ``value = stored * scale + offset``; UNKNOWN is no value.

    Codes from 1 on are values; what is outside the range saturates.
    """

    low: float
    high: float

    @property
    def scale(self) -> float:
        """Value of one step."""
        return (self.high - self.low) / (65535 - UNKNOWN - 1)

    @property
    def offset(self) -> float:
        """Value that code 0 would have."""
        return self.low - self.scale * (UNKNOWN + 1)

    def store(self, result: Result) -> npt.NDArray[np.uint16]:
        """A result in codes; a pixel of which any component is NaN or infinite is UNKNOWN in all of them."""
        codes = np.clip(result, self.low, self.high)
        codes -= self.low
        codes /= self.scale
        np.rint(codes, out=codes)
        codes += UNKNOWN + 1
        codes[~known_pixels(result)] = UNKNOWN
        return codes.astype(np.uint16)

    def told(self) -> dict[str, Any]:
        """What a sidecar says of it."""
        return {
            "value": "stored * scale + offset, where stored is not unknown",
            "scale": self.scale,
            "offset": self.offset,
            "unknown": UNKNOWN,
        }


def known_pixels(result: Result) -> npt.NDArray[np.bool_]:
    """Where a result [H, W] or [H, W, 3] is a number in all components, bool [H, W]."""
    finite: npt.NDArray[np.bool_] = np.isfinite(result)
    return finite if result.ndim == 2 else np.logical_and.reduce(finite, axis=2)


def about(
    manifest: Manifest,
    frame: SourceFrame,
    result: Result,
    facts: Facts,
    kind: Kind | None = None,
) -> dict[str, Any]:
    """What a sidecar says of a result: what its kind means, or what the steps made of it.

    ``kind`` None is the bundle's one kind.
    """
    info = manifest.kinds[0] if kind is None else kind
    source = {"name": frame.name, "index": frame.index, "pts_s": frame.pts_s}
    if frame.stamp_ns is not None:
        source |= {"stamp_ns": frame.stamp_ns, "frame_id": frame.frame_id}
    told: dict[str, Any] = {
        "task": manifest.task,
        "kind": info.name,
        "meaning": info.meaning,
        "units": info.units,
        "metric": False,
        "range": list(info.value_range),
        "size": list(result.shape[:2]),
        "source": source,
        "model": {
            "checkpoint": manifest.checkpoint.id,
            "sha256": manifest.checkpoint.sha256,
            "family": manifest.family,
            "precision": manifest.precision,
            "note": manifest.checkpoint.note,
        },
    }
    if info.form == "vectors":
        told["axes"] = CAMERA
    return told | facts


def told_apart(
    kinds: Sequence[Kind], given: Outcome, facts: Facts
) -> list[tuple[Kind, Result, Facts]]:
    """Each result with its kind and its facts, whether a sink was given one result or a mapping of several."""
    several = len(kinds) > 1
    return [
        (kind, result, facts[kind.output] if several else facts)
        for kind, result in by_kind(kinds, given)
    ]


class OfOutput:
    """A sink of one of several outputs: it is given that result alone."""

    def __init__(self, sink: Sink, output: str) -> None:
        self.name, self.on_main_thread = sink.name, sink.on_main_thread
        self._sink, self._output = sink, output

    def write(self, frame: SourceFrame, results: Results, facts: Facts) -> None:
        """Hand its result on."""
        self._sink.write(frame, results[self._output], facts[self._output])

    def close(self) -> list[Path]:
        """Close the sink."""
        return self._sink.close()


class WindowSink:
    """A window with the frame beside its coloured results; the user closes it with q or Escape.

    Raises:
        UnavailableError: this machine has no display.
    """

    name = "window"
    on_main_thread = True

    def __init__(self, painter: Painter, *, wait: bool) -> None:
        # Qt aborts the whole process when it finds no display, so it must not be asked.
        if sys.platform.startswith("linux") and not (
            os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        ):
            raise UnavailableError(
                "`show` needs a display and there is none here (DISPLAY is not set); use `out`"
            )
        self._painter, self._wait = painter, wait

    def write(self, frame: SourceFrame, result: Outcome, facts: Facts) -> None:
        """Show one frame; raises KeyboardInterrupt when the user closes the window."""
        both = np.concatenate([frame.rgb, self._painter(result, facts)], axis=1)
        cv2.imshow("e2e-deploy", both[..., ::-1])
        if cv2.waitKey(0 if self._wait else 1) & 0xFF in (27, ord("q")):
            raise KeyboardInterrupt

    def close(self) -> list[Path]:
        """Close the window."""
        cv2.destroyAllWindows()
        return []


class CallbackSink:
    """Hands every result to a function: ``function(frame, result, facts)``, in a thread of its own."""

    name = "callback"
    on_main_thread = False

    def __init__(self, function: Callable[[SourceFrame, Any, Facts], None]) -> None:
        self.write = function

    def close(self) -> list[Path]:
        """Nothing was written."""
        return []
