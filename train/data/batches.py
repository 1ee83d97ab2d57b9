"""Micro-batches as tensors: reads what the mixing plan names, fits, mirrors, prepares the target.

Knows: folder data sets, training sizes, the batch's layout. Does not know: losses, the optimizer.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypedDict

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from e2e_deploy.errors import DataError, E2EDeployError, UsageError
from e2e_deploy.names import OnBad, TaskName
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.train.data.mixing import MixingPlan
from e2e_deploy.train.data.resize import STRIDE, fit
from e2e_deploy.train.data.sample import TRUTHS, Sample, depth_target


class Batch(TypedDict):
    """One micro-batch, of one data set and one size."""

    rgb: torch.Tensor
    """float32 [B, 3, H, W] in [-1, 1]"""
    depth_m: torch.Tensor
    """float32 [B, 1, H, W], metres, clamped; the far value where invalid"""
    normals: torch.Tensor
    """float32 [B, 3, H, W], x right, y up, z toward the viewer; zero where unknown or absent"""
    picture: torch.Tensor
    """float32 [B, 3 or 1, H, W] in [-1, 1], the mask or matte; zero where unknown, and without channels in a batch for
    another task"""
    valid: torch.Tensor
    """bool [B, 1, H, W], where the truth of the task is known; nowhere in an image of flat depth"""
    paths: list[str]
    """The pictures."""
    bad: list[str]
    """What could not be read and was replaced by the next sample, with the reason."""


@dataclass(frozen=True, slots=True)
class Part:
    """One data set of the mix."""

    dataset: FolderDataset
    weight: int
    """Share in the mix, see ``MixingPlan.weights``."""
    size: tuple[int, int] | None = None
    """Training (height, width): scaled to cover it, centre cut out. None keeps the stored size."""


class Change(Protocol):
    """What happens to a sample in place of ``fit``; goes to other processes, so it can be pickled."""

    def __call__(
        self, sample: Sample, size_hw: tuple[int, int] | None, rng: np.random.Generator
    ) -> Sample:
        """``sample`` at ``size_hw``, None for the stored size; all chance is from ``rng``."""


class MixedBatches(Dataset[Batch]):
    """All micro-batches of one process; item ``step * accumulation + slot``.

    Args:
        parts: the data sets and their shares.
        batch_size: images per micro-batch.
        per_step: micro-batches per optimizer step, of all processes.
        seed: of order and flips.
        world: number of processes.
        rank: of this process.
        task: whose truth the masks are for.
        on_bad: replace a sample that cannot be read by the next one and name it in ``bad``, or stop.
        change: augmentation; None only scales and cuts.

    Raises:
        UsageError: a size is not a multiple of 8.
        ValueError: numbers that make no plan, see ``MixingPlan``.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        batch_size: int,
        per_step: int,
        seed: int = 0,
        world: int = 1,
        rank: int = 0,
        task: TaskName = "depth",
        on_bad: OnBad = "skip",
        change: Change | None = None,
    ) -> None:
        for part in parts:
            if part.size is not None and (part.size[0] % STRIDE or part.size[1] % STRIDE):
                raise UsageError(f"training size {part.size} must be a multiple of {STRIDE}")
        self.parts = tuple(parts)
        self.task = task
        self.on_bad = on_bad
        self.change = change
        self.plan = MixingPlan(
            lengths=tuple(len(part.dataset) for part in parts),
            weights=tuple(part.weight for part in parts),
            batch_size=batch_size,
            per_step=per_step,
            seed=seed,
            world=world,
            rank=rank,
        )

    def batch_at(self, step: int, slot: int) -> Batch:
        """Read micro-batch ``slot`` of optimizer step ``step``.

        Raises:
            DataError: a sample is bad and ``on_bad`` is stop, all are bad, or stored sizes cannot be used.
        """
        chosen = self.plan.micro_batch_at(step, slot)
        part, bad = self.parts[chosen.dataset], list[str]()
        samples = [
            self._sized(
                self._read(part, index, bad),
                part.size,
                self.plan.chance_of(chosen.dataset, place),
            )
            for index, place in zip(chosen.indices, chosen.places, strict=True)
        ]
        sizes = {sample.valid.shape for sample in samples}
        if len(sizes) > 1 or any(side % STRIDE for side in next(iter(sizes))):
            raise DataError(
                f"{part.dataset.root}: stored sizes {sorted(sizes)} do not make a batch: give a "
                f"training size, a multiple of {STRIDE}"
            )
        mirrored = [
            flip(sample) if flipped else sample
            for sample, flipped in zip(samples, chosen.flips, strict=True)
        ]
        return collate(mirrored, bad, task=self.task)

    def __getitem__(self, index: int) -> Batch:
        return self.batch_at(*divmod(index, self.plan.accumulation))

    def loader(self, first_step: int, last_step: int, *, workers: int = 0) -> Iterator[Batch]:
        """Micro-batches of the steps ``first_step`` to ``last_step`` - 1, in order; errors as ``batch_at``.

        The order does not depend on ``workers``; resuming is a matter of ``first_step`` alone.
        """
        accumulation = self.plan.accumulation
        loader: DataLoader[Batch | E2EDeployError] = DataLoader(
            _Sent(self),
            batch_size=None,
            sampler=range(first_step * accumulation, last_step * accumulation),
            num_workers=workers,
            worker_init_fn=_settle,
            pin_memory=torch.cuda.is_available(),
            # Spawned, because forking a process that has threads (CUDA, OpenCV) can hang.
            multiprocessing_context="spawn" if workers else None,
        )
        for item in loader:
            if isinstance(item, E2EDeployError):
                raise item
            yield item

    def _sized(
        self, sample: Sample, size_hw: tuple[int, int] | None, rng: np.random.Generator
    ) -> Sample:
        if self.change is not None:
            return self.change(sample, size_hw, rng)
        return sample if size_hw is None else fit(sample, *size_hw)

    def _read(self, part: Part, index: int, bad: list[str]) -> Sample:
        length = len(part.dataset)
        for offset in range(length):
            try:
                return part.dataset.read((index + offset) % length)
            except DataError as error:
                if self.on_bad == "stop":
                    raise
                bad.append(str(error))
        raise DataError(
            f"{part.dataset.folder}: none of its {length} samples can be read: {bad[0]}"
        )


class _Sent(Dataset["Batch | E2EDeployError"]):
    """``MixedBatches`` for another process: an error raised there would arrive with its traceback as its text."""

    def __init__(self, batches: MixedBatches) -> None:
        self._batches = batches

    def __getitem__(self, index: int) -> Batch | E2EDeployError:
        try:
            return self._batches[index]
        except E2EDeployError as error:
            return error


def flip(sample: Sample) -> Sample:
    """Mirror left and right, the normals' x with it."""
    normals = sample.normals
    if normals is not None:
        normals = normals[:, ::-1] * np.array([-1, 1, 1], dtype=np.float32)
    return replace(
        sample,
        rgb=sample.rgb[:, ::-1],
        depth_m=sample.depth_m[:, ::-1],
        normals=normals,
        valid=sample.valid[:, ::-1],
        mask=None if sample.mask is None else sample.mask[:, ::-1],
        matte=None if sample.matte is None else sample.matte[:, ::-1],
    )


def collate(
    samples: Sequence[Sample], bad: Sequence[str] = (), *, task: TaskName = "depth"
) -> Batch:
    """Samples of one size as a batch for ``task``; targets are prepared here."""
    targets = [depth_target(sample.depth_m, sample.valid) for sample in samples]
    known = [sample.known(task) for sample in samples]
    if "depth" in TRUTHS[task]:
        known = [mask & usable for mask, (_, usable) in zip(known, targets, strict=True)]
    normals = [
        np.zeros((*sample.valid.shape, 3), np.float32) if sample.normals is None else sample.normals
        for sample in samples
    ]
    rgb = np.stack([sample.rgb for sample in samples])
    return Batch(
        rgb=_channels_first(rgb).float() / 127.5 - 1,
        depth_m=torch.from_numpy(np.stack([depth for depth, _ in targets]))[:, None],
        normals=_channels_first(np.stack(normals)),
        picture=_channels_first(np.stack([_picture(sample, task) for sample in samples])),
        valid=torch.from_numpy(np.stack(known))[:, None],
        paths=[sample.path for sample in samples],
        bad=list(bad),
    )


def _picture(sample: Sample, task: TaskName) -> npt.NDArray[np.float32]:
    """Mask or matte as [H, W, C] in [-1, 1]."""
    values = {"segmentation": sample.mask, "matting": sample.matte}.get(task)
    size = sample.valid.shape
    if values is None:
        return np.zeros((*size, 0), np.float32)
    return np.nan_to_num(2 * values.reshape(*size, -1) - 1).astype(np.float32)


def _channels_first(images: npt.NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _settle(_worker: int) -> None:
    """One thread, and out of reach of signals to the group: the run itself answers them when its state is whole."""
    cv2.setNumThreads(1)
    os.setsid()  # torch ends readers whose run is gone
