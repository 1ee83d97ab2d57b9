"""Every set of the protocol by name, where it lies, and its reader."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e_deploy.errors import DataError, UsageError
from e2e_deploy.names import KittiMask, SetName
from e2e_deploy.train.protocol.depth_sets import DEPTH_SETS
from e2e_deploy.train.protocol.layouts.depth import layout as depth_layout
from e2e_deploy.train.protocol.layouts.pairs import PairedSet, read_list
from e2e_deploy.train.protocol.layouts.set_files import open_files
from e2e_deploy.train.protocol.sets import EvaluationSet

SETS: dict[SetName, EvaluationSet] = {each.name: each for each in DEPTH_SETS}


@dataclass(frozen=True, slots=True)
class SetVariants:
    """What a set may be read as besides what is published."""

    kitti_mask: KittiMask = "eigen"


def find_set(root: Path, name: SetName) -> Path | None:
    """Where the set lies below the folder of all sets, or None if it is not there."""
    for place in SETS[name].places:
        found = root / place
        if found.is_file() or (found.is_dir() and any(found.iterdir())):
            return found
    return None


def open_set(root: Path, name: SetName, variants: SetVariants = SetVariants()) -> PairedSet:
    """The samples of the set ``name`` below the folder ``root`` of all sets.

    Raises:
        DataError: it is not there, damaged, or holds no complete image.
    """
    place = find_set(root, name)
    if place is None:
        raise DataError(not_here(root, name))
    layout = depth_layout(name, variants.kitti_mask)
    return PairedSet(open_files(place), layout, _listed(root, name, place))


def not_here(root: Path, name: SetName) -> str:
    """What is missing, and how to get it, in a sentence or two."""
    each = SETS[name]
    return f"{each.title} is not in {root} (expected {' or '.join(each.places)}). {each.how_to_get}"


def wanted(task: str, names: Sequence[SetName] | None) -> list[SetName]:
    """The sets to measure a model of ``task`` on: those named, in the order of the protocol, or all of its truth.

    Raises:
        UsageError: a set has another truth.
    """
    fitting = [name for name, each in SETS.items() if each.task == task]
    for name in names or ():
        if name not in fitting:
            raise UsageError(
                f"{name} has truth for {SETS[name].task}, and the model gives {task}; its sets are "
                f"{', '.join(fitting)}"
            )
    return [name for name in fitting if names is None or name in names]


def _listed(root: Path, name: SetName, place: Path) -> list[str] | None:
    list_file = SETS[name].list_file
    beside = [] if list_file is None else [place.parent / list_file, place / list_file]
    return next((read_list(path) for path in beside if path.is_file()), None)
