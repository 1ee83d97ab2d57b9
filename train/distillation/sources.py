"""The pictures that a distillation looks at, those it is measured on apart, and random views of them.

Knows: folders of pictures and data sets, whose truth it leaves alone. Does not know: models.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch

from e2e_deploy.errors import DataError, InputError
from e2e_deploy.names import OnBad
from e2e_deploy.train.augmentation.augment import Augmentation
from e2e_deploy.train.config.settings import TrainConfig
from e2e_deploy.train.data.files import read_picture
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.train.pretraining.views import SMALLEST_VIEW

SUFFIXES = (".png", ".jpg", ".jpeg")
HELD_OUT_EVERY = 20
MOST_HELD_OUT = 100

Rgb = npt.NDArray[np.uint8]


class Pictures(Protocol):
    """Pictures by number."""

    @property
    def name(self) -> str:
        """For people and cards; no path."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> Rgb:
        """uint8 RGB [H, W, 3]; DataError where it cannot be read."""
        ...

    def fingerprint(self) -> str:
        """Changes when the pictures do."""
        ...


class PictureFolder:
    """All PNG and JPEG files in a folder and the folders in it, in the order of their paths.

    Raises:
        InputError: no folder, or none of them.
    """

    def __init__(self, root: Path) -> None:
        self.name = root.resolve().name
        try:
            files = [file for file in root.rglob("*") if file.suffix.lower() in SUFFIXES]
            self._files = sorted(file for file in files if file.is_file())
        except OSError as error:
            raise InputError(f"{root} cannot be read: {error.strerror or error}") from None
        self._root = root
        if not self._files:
            raise InputError(f"distil.pictures is {root}, where no PNG or JPEG picture is")

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> Rgb:
        """As of ``Pictures``; grey becomes RGB, 16 bits become 8, and alpha is dropped, as where results are made."""
        picture = read_picture(self._files[index], drop_alpha=True)
        if picture.dtype == np.uint16:
            picture = picture >> 8
        if picture.ndim == 2:
            picture = np.repeat(picture[..., None], 3, axis=2)
        return picture.astype(np.uint8)

    def fingerprint(self) -> str:
        """Of names and sizes."""
        total = hashlib.sha256()
        for file in self._files:
            total.update(f"{file.relative_to(self._root)} {file.stat().st_size}\n".encode())
        return total.hexdigest()


class PicturesOfData:
    """The pictures of the training's data sets, one set after the other; errors as of ``FolderDataset``."""

    def __init__(self, config: TrainConfig) -> None:
        self._sets = [
            FolderDataset(part.root, part.split, task=config.task, cache_gb=part.cache_gb)
            for part in config.data
        ]
        self._ends = np.cumsum([len(each) for each in self._sets])
        self.name = ", ".join(f"{each.spec.name} ({each.split})" for each in self._sets)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, index: int) -> Rgb:
        """As of ``Pictures``."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        before = int(self._ends[number - 1]) if number else 0
        return self._sets[number].read_rgb(index - before)

    def fingerprint(self) -> str:
        """Of the data sets."""
        return " ".join(each.fingerprint() for each in self._sets)


def pictures_of(config: TrainConfig) -> Pictures:
    """What ``config.distil`` names, or the pictures of the data."""
    assert config.distil is not None
    if config.distil.pictures is not None:
        return PictureFolder(Path(config.distil.pictures))
    return PicturesOfData(config)


def divided(length: int, *, hold_out: bool) -> tuple[list[int], list[int]]:
    """Which of ``length`` pictures are learned from, and which are held out: every twentieth, the first one always.

    One picture alone is both; none is held out unless ``hold_out`` says so.
    """
    held = list(range(0, length, HELD_OUT_EVERY)) if hold_out and length > 1 else []
    learned = sorted(set(range(length)) - set(held))
    if hold_out and not held:
        held = learned
    return learned, held[:: -(-len(held) // MOST_HELD_OUT)] if held else []


class Unreadable:
    """Pictures that could not be read, each counted once; from any thread."""

    def __init__(self) -> None:
        self._reasons: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._reasons)

    @property
    def first(self) -> str:
        """Reason of the one with the lowest number; there must be one."""
        return self._reasons[min(self._reasons)]

    def add(self, number: int, error: DataError) -> None:
        """Picture ``number`` cannot be read because of ``error``."""
        self._reasons[number] = str(error)


class Views:
    """Random views of pictures.

    Args:
        pictures: all of them.
        learned: numbers of those that are looked at.
        size_hw: of a view.
        workers: threads that read.
        on_bad: the next picture instead of one that cannot be read, or stop.
        augmentation: what happens to views; its windows are not used.

    Attributes:
        unreadable: those that others took the place of.
    """

    def __init__(
        self,
        pictures: Pictures,
        learned: Sequence[int],
        size_hw: tuple[int, int],
        *,
        workers: int,
        on_bad: OnBad,
        augmentation: Augmentation | None = None,
    ) -> None:
        self._pictures, self._learned, self._size_hw = pictures, learned, size_hw
        self._workers, self._on_bad = max(1, workers), on_bad
        self._augmentation = augmentation
        self.unreadable = Unreadable()

    def draw(self, generator: torch.Generator, count: int) -> torch.Tensor:
        """uint8 [count, 3, H, W]: windows of the view's aspect, every second one mirrored.

        Raises:
            DataError: a picture cannot be read and ``on_bad`` is stop, or none can.
        """
        places = torch.randint(len(self._learned), (count,), generator=generator).tolist()
        chances = torch.rand(count, 4, generator=generator).tolist()
        seeds = torch.randint(2**62, (count,), generator=generator).tolist()
        with ThreadPoolExecutor(self._workers) as pool:
            views = list(pool.map(self._view, places, chances, seeds))
        return torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).contiguous()

    def _view(self, place: int, chances: Sequence[float], seed: int) -> Rgb:
        rgb = self._readable(place)
        share, down, right, mirror = chances
        rgb = window(rgb, self._size_hw, SMALLEST_VIEW + (1 - SMALLEST_VIEW) * share, down, right)
        rgb = np.ascontiguousarray(rgb[:, ::-1]) if mirror < 0.5 else rgb
        if self._augmentation is None:
            return rgb
        return self._augmentation.photographed(rgb, np.random.default_rng(seed))

    def _readable(self, place: int) -> Rgb:
        for offset in range(len(self._learned)):
            number = self._learned[(place + offset) % len(self._learned)]
            try:
                return self._pictures.read(number)
            except DataError as error:
                if self._on_bad == "stop":
                    raise
                last = error
                self.unreadable.add(number, error)
        raise DataError(f"none of the {len(self._learned)} pictures can be read: {last}")


def window(
    rgb: Rgb, size_hw: tuple[int, int], share: float = 1.0, down: float = 0.5, right: float = 0.5
) -> Rgb:
    """A window of the aspect of ``size_hw``, brought to that size.

    Its sides are ``share`` of the largest such window's; ``down`` and ``right`` in [0, 1] say where it lies.
    """
    scale = share * min(side / wanted for side, wanted in zip(rgb.shape, size_hw, strict=False))
    height, width = (
        max(1, min(n, round(scale * w))) for n, w in zip(rgb.shape, size_hw, strict=False)
    )
    top = int(down * (rgb.shape[0] - height + 1 - 1e-6))
    left = int(right * (rgb.shape[1] - width + 1 - 1e-6))
    cut = np.ascontiguousarray(rgb[top : top + height, left : left + width])
    smooth = cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
    return cv2.resize(cut, size_hw[::-1], interpolation=smooth).astype(np.uint8)
