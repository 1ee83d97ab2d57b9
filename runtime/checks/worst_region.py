"""Where a backend is farthest from its reference, as a picture: of the worst frame the worst region, marked.

Display only: parity is judged in runtime/checks/verify.py. Knows results and colours; loads nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle.manifest import GraphEntry
from e2e_deploy.colormap import Rgb, colour_depth, colour_result, write_note
from e2e_deploy.kinds import KINDS, Kind
from e2e_deploy.metrics import angular_error_deg
from e2e_deploy.names import ResultKind
from e2e_deploy.system.files import whole_file
from e2e_deploy.system.opencv import cv2

SIDE_PX = 64
"""Height and width of a region."""

_MARK, _GAP_PX = (255, 0, 255), 4

Array = npt.NDArray[np.float32]


def error_map(kind: Kind, result: Array, reference: Array) -> npt.NDArray[np.float64]:
    """Error of each pixel [H, W]: angle of vectors in degrees, else absolute difference; infinite where not finite.

    Args:
        kind: of both.
        result: [H, W] or [H, W, 3], of which a picture's mean over the channels counts.
        reference: the same shape, finite.
    """
    finite: npt.NDArray[np.bool_] = np.isfinite(result)
    finite = finite if result.ndim == 2 else np.all(finite, axis=-1)
    known = np.where(finite if result.ndim == 2 else finite[..., None], result, 0.0)
    if kind.form == "vectors":
        error = np.nan_to_num(angular_error_deg(known, reference, np.ones_like(finite)))
    else:
        error = np.abs(known.astype(np.float64) - reference)
        error = error if error.ndim == 2 else error.mean(axis=-1)
    return np.where(finite, error, np.inf)


def worst_region(error_HW: npt.NDArray[np.float64], side: int = SIDE_PX) -> tuple[int, int]:
    """Top and left of the ``side`` x ``side`` region with the largest mean error; smaller pictures are one region."""
    height, width = min(side, error_HW.shape[0]), min(side, error_HW.shape[1])
    finite = np.isfinite(error_HW)
    # A pixel without a value is worse than any that has one.
    ceiling = float(error_HW[finite].max()) if finite.any() else 0.0
    weight = np.where(finite, error_HW, error_HW.size * (ceiling + 1.0))
    sums = cv2.integral(weight, sdepth=cv2.CV_64F)
    totals = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width]
    totals = totals + sums[:-height, :-width]
    top, left = np.unravel_index(int(np.argmax(totals)), totals.shape)
    return int(top), int(left)


def _as_picture(frame: npt.NDArray[Any]) -> Rgb:
    """A frame, or rgb [3, H, W] in [-1, 1] of a core graph, as uint8 RGB [H, W, 3]."""
    if frame.dtype == np.uint8:
        return frame
    shown: Rgb = np.rint(np.clip(np.moveaxis(frame, 0, -1) * 127.5 + 127.5, 0, 255)).astype(
        np.uint8
    )
    return shown


@dataclass(frozen=True)
class ComparedFrame:
    """One frame, what a backend made of it, and what it should be.

    Attributes:
        title: what ran.
        kind: of the result.
        frame: uint8 RGB [H, W, 3].
        result: the backend's, [H, W] or [H, W, 3].
        reference: the same shape.
        error_HW: error of each pixel.
    """

    title: str
    kind: Kind
    frame: Rgb
    result: Array
    reference: Array
    error_HW: npt.NDArray[np.float64]

    def describe(self) -> str:
        """Where the worst region is and how large its error, one line."""
        top, left = worst_region(self.error_HW)
        inside = float(self.error_HW[top : top + SIDE_PX, left : left + SIDE_PX].mean())
        unit = " degrees" if self.kind.form == "vectors" else ""
        return (
            f"{self.title}: worst {SIDE_PX}x{SIDE_PX} at row {top}, column {left}: mean error {inside:.2e}{unit}, "
            f"whole frame {float(self.error_HW.mean()):.2e}"
        )

    def picture(self) -> Rgb:
        """Frame, reference, result and difference side by side, the worst region marked in each.

        Both maps share one stretch; the difference goes from black, none, to light, its largest.
        """
        finite = np.isfinite(self.error_HW)
        largest = float(self.error_HW[finite].max()) if finite.any() else 1.0
        shown_range = float(self.reference.min()), float(self.reference.max())
        maps = [
            colour_result(self.kind, each, "spectral", shown_range)
            for each in (self.reference, self.result)
        ]
        shown = np.where(finite, self.error_HW, largest).astype(np.float32)
        difference = colour_depth(largest - shown, "inferno", 0.0, largest)
        top, left = worst_region(self.error_HW)
        corner = min(left + SIDE_PX, shown.shape[1]) - 1, min(top + SIDE_PX, shown.shape[0]) - 1
        gap = np.full((shown.shape[0], _GAP_PX, 3), 255, dtype=np.uint8)
        panels: list[Rgb] = []
        names = ("frame", "reference", "result", f"difference, up to {largest:.1e}")
        for name, panel in zip(names, (self.frame, *maps, difference), strict=True):
            marked = write_note(panel, name)
            cv2.rectangle(marked, (left, top), corner, _MARK, 1)
            panels += [marked, gap]
        return np.concatenate(panels[:-1], axis=1)


class WorstFrames:
    """Of each graph, output and backend the frame with the largest mean error; its ``see`` watches verify_bundle."""

    def __init__(self) -> None:
        self._worst: dict[tuple[str, str, str], ComparedFrame] = {}

    def see(
        self,
        graph: GraphEntry,
        backend: str,
        kind: ResultKind,
        frame: npt.NDArray[Any],
        result: Array,
        reference: Array,
    ) -> None:
        """Keep this frame if it is worse than those before.

        Args:
            graph: what ran.
            backend: where.
            kind: of the result.
            frame: uint8 RGB [H, W, 3], or rgb float32 [3, H, W] in [-1, 1] of a core graph.
            result: the backend's, [H, W] or [H, W, 3].
            reference: the same shape.
        """
        size = f"{graph.frame_hw[0]}x{graph.frame_hw[1]}"
        info = KINDS[kind]
        of = f"_{info.output}" if len(graph.outputs) > 1 else ""
        error_HW = error_map(info, result, reference)
        before = self._worst.get((backend, size, of))
        if before is None or error_HW.mean() > before.error_HW.mean():
            title = f"{backend} {size}{of.replace('_', ' ')}"
            self._worst[backend, size, of] = ComparedFrame(
                title, info, _as_picture(frame), result, reference, error_HW
            )

    def write(self, folder: Path) -> list[tuple[Path, str]]:
        """A PNG a graph, output and backend into ``folder``; their paths and what they show, one line each.

        Raises:
            E2EDeployError: the folder cannot be written, or the disk is full.
        """
        written = []
        for (backend, size, of), worst in self._worst.items():
            path = folder / f"worst_{backend}_{size}{of}.png"
            ok, data = cv2.imencode(".png", worst.picture()[:, :, ::-1])
            assert ok
            with whole_file(path) as partial:
                partial.write_bytes(data.tobytes())
            written.append((path, worst.describe()))
        return written
