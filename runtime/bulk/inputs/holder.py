"""Files and folders that hold many items: what is found in one of them. One module a kind makes it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from e2e_deploy.runtime.bulk.inputs.item import Part


@dataclass(frozen=True, slots=True)
class Place:
    """One item in it.

    Attributes:
        name: that its results' names begin with.
        part: where it lies.
        folder: of its results, relative to that of all of them.
    """

    name: str
    part: Part
    folder: str = ""


@dataclass(frozen=True)
class Held:
    """All items of it, in the order that ``run`` gives them.

    Attributes:
        others: of what is in it those that are no pictures.
        files: that are read; others of their names and sizes are another input.
        has_topics: `topic` chooses in it.
        notes: what has to be known of it, a sentence each.
    """

    places: list[Place]
    files: Sequence[Path] = ()
    others: int = 0
    has_topics: bool = False
    notes: list[str] = field(default_factory=list)
