"""One item of a bulk run: a picture, where it lies within a file, and the name of its results."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from e2e_deploy.runtime.sinks.picture_sink import frame_stem


@dataclass(frozen=True, slots=True)
class Part:
    """Where in a file an item lies; what is a file of its own has none. Each kind of input has a class of its own.

    Attributes:
        is_video: the file is one of moving pictures, whose results are numbered.
    """

    is_video: ClassVar[bool] = False

    @property
    def stretch(self) -> object | None:
        """What is read from its start to its end by one worker; None where each item is read by itself."""
        return None

    def shown(self, path: str, number: int) -> str:
        """The item, for people."""
        return f"{path}#{number}"


@dataclass(frozen=True, slots=True)
class Missing(Part):
    """In the place of what cannot be read, which is known from the start: why."""

    reason: str

    def shown(self, path: str, number: int) -> str:
        """Its file."""
        return path


@dataclass(frozen=True, slots=True)
class BulkItem:
    """One picture.

    Attributes:
        index: its place in the order of all.
        path: of its file.
        folder: of its results, relative to the output; "" is the output itself.
        name: that the files of its results begin with.
        number: its place in its own folder, list, tar or video, as ``run`` counts it.
        part: where in the file it lies; None is all of it.
    """

    index: int
    path: str
    folder: str
    name: str
    number: int
    part: Part | None = None

    @property
    def is_video(self) -> bool:
        """Whether it is one of moving pictures."""
        return self.part is not None and self.part.is_video

    @property
    def stretch(self) -> object | None:
        """As that of its part."""
        return None if self.part is None else self.part.stretch

    @property
    def stem(self) -> str:
        """What the names of its results' files begin with."""
        return frame_stem(self.name, self.number, number=self.is_video)

    @property
    def shown(self) -> str:
        """Its file, and which picture of it, for tables and people."""
        return self.path if self.part is None else self.part.shown(self.path, self.number)


@dataclass(frozen=True, slots=True)
class Moment:
    """When a frame was taken, as attributes of ``SourceFrame``; pictures have none."""

    pts_s: float | None = None
    stamp_ns: int | None = None
    frame_id: str = ""


@dataclass(frozen=True, slots=True)
class Read:
    """What was read of an item: uint8 RGB [H, W, 3] and its moment."""

    rgb: npt.NDArray[np.uint8]
    moment: Moment = field(default_factory=Moment)
