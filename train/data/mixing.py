"""Which images every micro-batch holds: a pure function of (plan, step, slot).

Knows: exact ratios, epochs, shuffling, ranks, flips, where chance comes from. Does not know: files, tensors, workers.

One optimizer step is ``per_step`` micro-batches with consecutive global numbers; rank r takes every
world-th, from the r-th on. So all ranks together see what one process alone would see, also where
some have one more than others, and a run resumes at any step without replaying the ones before.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# Independent random streams under one seed.
_CHOICE, _ORDER, _FLIP, _CHANGE = 0, 1, 2, 3


class MicroBatch(NamedTuple):
    """Images of one data set that form one micro-batch."""

    dataset: int
    indices: tuple[int, ...]
    flips: tuple[bool, ...]
    """Whether each image is mirrored."""
    places: tuple[int, ...]
    """Of each image in the endless sequence of its data set's epochs."""


@dataclass(frozen=True, kw_only=True)
class MixingPlan:
    """Mixing of data sets by exact ratio, at micro-batch level."""

    lengths: tuple[int, ...]
    """Images per data set."""
    weights: tuple[int, ...]
    """Micro-batches of each data set in every run of ``sum(weights)`` micro-batches, e.g. (9, 1)."""
    batch_size: int
    """Images per micro-batch."""
    per_step: int
    """Micro-batches per optimizer step, of all processes; each has one or more."""
    seed: int = 0
    world: int = 1
    rank: int = 0
    _orders: dict[int, tuple[int, npt.NDArray[np.int64]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        """Check the numbers; ValueError says which is wrong."""
        if not self.lengths or len(self.lengths) != len(self.weights):
            raise ValueError(f"lengths {self.lengths} and weights {self.weights} must pair up")
        if min(self.lengths) < 1 or min(self.weights) < 1:
            raise ValueError(f"lengths {self.lengths} and weights {self.weights} must be 1 or more")
        if self.batch_size < 1 or self.per_step < self.world:
            raise ValueError(
                f"batch_size {self.batch_size} must be 1 or more, per_step {self.per_step} at least {self.world}"
            )
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank {self.rank} must be in 0..{self.world - 1}")

    @property
    def accumulation(self) -> int:
        """Micro-batches per optimizer step of this rank."""
        return len(range(self.rank, self.per_step, self.world))

    def micro_batch_at(self, step: int, slot: int) -> MicroBatch:
        """Micro-batch ``slot`` (0 .. accumulation - 1) of optimizer step ``step`` of this rank."""
        if step < 0 or not 0 <= slot < self.accumulation:
            raise ValueError(
                f"step {step}, slot {slot}: expected slot in 0..{self.accumulation - 1}"
            )
        number = step * self.per_step + slot * self.world + self.rank
        dataset, turn = self._turn(number)
        places = range(turn * self.batch_size, (turn + 1) * self.batch_size)
        return MicroBatch(
            dataset=dataset,
            indices=tuple(self._image(dataset, place) for place in places),
            flips=tuple(self._is_flipped(dataset, place) for place in places),
            places=tuple(places),
        )

    def chance_of(self, dataset: int, place: int) -> np.random.Generator:
        """Of the image at ``place``: the same whenever, wherever and after whatever it is read."""
        return self._random(_CHANGE, dataset, place)

    def _turn(self, number: int) -> tuple[int, int]:
        """Data set of global micro-batch ``number``, and how many it had before."""
        choices = np.repeat(np.arange(len(self.weights)), self.weights)
        block, place = divmod(number, len(choices))
        choices = self._random(_CHOICE, block).permutation(choices)
        dataset = int(choices[place])
        before = int(np.count_nonzero(choices[:place] == dataset))
        return dataset, block * self.weights[dataset] + before

    def _image(self, dataset: int, place: int) -> int:
        """Image at ``place`` of the data set's endless sequence of shuffled epochs."""
        epoch, position = divmod(place, self.lengths[dataset])
        cached = self._orders.get(dataset)
        if cached is None or cached[0] != epoch:
            order = self._random(_ORDER, dataset, epoch).permutation(self.lengths[dataset])
            cached = self._orders[dataset] = (epoch, order)
        return int(cached[1][position])

    def _is_flipped(self, dataset: int, place: int) -> bool:
        return bool(self._random(_FLIP, dataset, place).integers(2))

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *key])
