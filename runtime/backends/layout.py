"""Where the results of one call lie: each at an aligned offset of one block of memory, so that one copy moves them all.

N: frames that a graph takes at once.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle.manifest import GraphEntry
from e2e_deploy.kinds import Kind
from e2e_deploy.runtime.backends.dlpack import RawArray

ALIGNMENT = 256
"""Of every address a library on a GPU is given, in bytes."""

Result = npt.NDArray[np.float32]
"""Depth [H, W] or normals [H, W, 3]; of a graph that takes N frames at once [N, H, W] or [N, H, W, 3]."""

Results = dict[str, Result]
"""The results of a call by the names of its outputs, in their order."""

Outcome = Result | Results
"""What a user is given of a frame: of one output its result, of several a mapping by their names."""

_ITEM = np.dtype(np.float32).itemsize


def by_kind(kinds: Sequence[Kind], given: Outcome) -> list[tuple[Kind, Result]]:
    """Each result with its kind, in order."""
    if isinstance(given, dict):
        return [(kind, given[kind.output]) for kind in kinds]
    (kind,) = kinds
    return [(kind, given)]


def changed(kinds: Sequence[Kind], given: Outcome, change: Callable[[Kind, Result], Any]) -> Any:
    """``given`` with every result replaced by what ``change`` makes of it and its kind; a new mapping."""
    if isinstance(given, dict):
        return {kind.output: change(kind, given[kind.output]) for kind in kinds}
    return change(kinds[0], given)


@dataclass(frozen=True)
class Place:
    """Of one result.

    Attributes:
        name: of the output.
        offset: in bytes from where the block begins.
        shape: with the axis of N.
    """

    name: str
    offset: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The block of a graph's results: float32, one result after the other, what lies between them is no matter.

    Attributes:
        places: in the order of the outputs.
        num_bytes: of the block; of one result its own size.
    """

    places: tuple[Place, ...]
    num_bytes: int

    @classmethod
    def of(cls, graph: GraphEntry, kinds: Sequence[Kind]) -> "Layout":
        """The layout of a graph that gives ``kinds``, at its ``frame_size``."""
        places: list[Place] = []
        end = 0
        for kind in kinds:
            offset = -(-end // ALIGNMENT) * ALIGNMENT
            shape = (graph.batch, *graph.shapes(kind)[1])
            places.append(Place(kind.output, offset, shape))
            end = offset + math.prod(shape) * _ITEM
        return cls(tuple(places), end)

    def block_shape(self, frame_ndim: int) -> tuple[int, ...]:
        """Shape of the array that holds the block for frames of so many axes: of one result its own, of several flat.

        Frames without the axis of N, of three axes, have results without it.
        """
        if len(self.places) > 1:
            return (self.num_bytes // _ITEM,)
        return self._shape(self.places[0], frame_ndim)

    @overload
    def apart(self, block: Result, frame_ndim: int) -> Results: ...

    @overload
    def apart(self, block: RawArray, frame_ndim: int) -> dict[str, RawArray]: ...

    def apart(self, block: Result | RawArray, frame_ndim: int) -> Any:
        """The results in a block, as views of it that keep it alive."""
        if isinstance(block, RawArray):
            return {
                place.name: RawArray(
                    block.address + place.offset,
                    self._shape(place, frame_ndim),
                    "float32",
                    block.device,
                    owner=block,
                )
                for place in self.places
            }
        flat = block.reshape(-1)
        return {
            place.name: flat[place.offset // _ITEM :][: math.prod(place.shape)].reshape(
                self._shape(place, frame_ndim)
            )
            for place in self.places
        }

    def together(self, results: Sequence[Any], frame_ndim: int, out: Result | None) -> Result:
        """The results of a library that computes into memory of its own, in one block.

        Args:
            results: NumPy's, in order, with the axis of N.
            frame_ndim: axes of the frames.
            out: the block to write them to; None makes one, where a single result needs none.
        """
        shape = self.block_shape(frame_ndim)
        if out is None and len(results) == 1:
            only: Result = results[0].reshape(shape)
            return only
        block = np.empty(shape, np.float32) if out is None else out
        for part, result in zip(self.apart(block, 4).values(), results, strict=True):
            np.copyto(part, result)
        return block

    @staticmethod
    def _shape(place: Place, frame_ndim: int) -> tuple[int, ...]:
        return place.shape[1:] if frame_ndim == 3 else place.shape
