"""What layouts are made of: one result as the engine gave it, encoded results, and files by their names."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from e2e_deploy.bundle.manifest import Manifest
from e2e_deploy.kinds import Kind
from e2e_deploy.runtime.backends.layout import Result
from e2e_deploy.runtime.bulk.inputs.item import BulkItem
from e2e_deploy.runtime.sources.source import SourceFrame

Files = list[tuple[str, bytes]]
"""(relative name, content), in the order in which they are written: what others are known by comes after them."""


@dataclass(frozen=True)
class Made:
    """One result of a picture.

    Attributes:
        values: float32 [H, W] or [H, W, 3] at the picture's size.
        number: the picture's number is part of its files' names.
    """

    manifest: Manifest
    kind: Kind
    frame: SourceFrame
    values: Result
    number: bool


@dataclass(frozen=True)
class EncodedPicture:
    """Of one picture every result as its layout encodes it.

    Attributes:
        results: by the name of the output, such as depth.
    """

    item: BulkItem
    frame: SourceFrame
    results: dict[str, Any]

    @property
    def hw(self) -> tuple[int, int]:
        """(H, W) of the picture."""
        height, width = self.frame.rgb.shape[:2]
        return height, width


@dataclass(frozen=True)
class Layout:
    """One way to keep results.

    Attributes:
        encode: one result, as ``files`` takes it.
        files: of a shard, by its number, whose pictures are in order; the same bytes whenever they are made.
        root: what the shards' files lie in, if that needs files; written once, before them.
    """

    encode: Callable[[Made], Any]
    files: Callable[[int, list[EncodedPicture]], Files]
    root: Files = field(default_factory=list)
