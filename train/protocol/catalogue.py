"""Every set of the protocol by name, where it lies, and its reader."""

from dataclasses import dataclass
from pathlib import Path

from e2e_deploy.errors import DataError
from e2e_deploy.names import KittiMask, Measure, SetName
from e2e_deploy.train.protocol.depth_sets import DEPTH_SETS
from e2e_deploy.train.protocol.layouts.depth import layout as depth_layout
from e2e_deploy.train.protocol.layouts.normals import PLAIN
from e2e_deploy.train.protocol.layouts.normals import layout as normals_layout
from e2e_deploy.train.protocol.layouts.pairs import PairedSet, read_list
from e2e_deploy.train.protocol.layouts.set_files import open_files
from e2e_deploy.train.protocol.normals_sets import NORMALS_SETS
from e2e_deploy.train.protocol.sets import EvaluationSet

SETS: dict[Measure, dict[SetName, EvaluationSet]] = {
    "depth": {each.name: each for each in DEPTH_SETS},
    "normals": {each.name: each for each in NORMALS_SETS},
}
"""By what is measured: NYUv2 and ScanNet are two sets each, with other pictures and other truth."""


@dataclass(frozen=True, slots=True)
class SetVariants:
    """What a set may be read as besides what is published."""

    kitti_mask: KittiMask = "eigen"
    published_input: bool = True
    """Normals: the picture is shown as the published evaluation shows it, see ``layouts.normals.published_input``."""


def find_set(root: Path, measure: Measure, name: SetName) -> Path | None:
    """Where the set lies below the folder of all sets, or None if it is not there.

    Raises:
        DataError: its folder may not be read.
    """
    for place in SETS[measure][name].places:
        found = root / place
        try:
            if found.is_file() or (found.is_dir() and any(found.iterdir())):
                return found
        except OSError as error:
            raise DataError(f"{found}: cannot be read ({error.strerror or error})") from error
    return None


def held_sets(root: Path) -> list[SetName]:
    """Names of the sets below ``root``, with truth for anything; DataError as of ``find_set``."""
    found = [name for measure in SETS for name in SETS[measure] if find_set(root, measure, name)]
    return list(dict.fromkeys(found))


def open_set(
    root: Path, measure: Measure, name: SetName, variants: SetVariants = SetVariants()
) -> PairedSet:
    """The samples of the set ``name``, with the truth of ``measure``, below the folder ``root`` of all sets.

    Raises:
        DataError: it is not there, damaged, or holds no complete image.
    """
    place = find_set(root, measure, name)
    if place is None:
        raise DataError(not_here(root, measure, name))
    layout = (
        depth_layout(name, variants.kitti_mask)
        if measure == "depth"
        else normals_layout(name, stretched=variants.published_input)
    )
    return PairedSet(open_files(place), layout, _listed(SETS[measure][name], place))


def not_here(root: Path, measure: Measure, name: SetName) -> str:
    """What is missing, and how to get it, in a sentence or two."""
    each = SETS[measure][name]
    return f"{each.title} is not in {root} (expected {' or '.join(each.places)}). {each.how_to_get}"


def variant_differences(each: EvaluationSet, variants: SetVariants) -> list[str]:
    """What of ``variants`` is not as published for this set, a clause each."""
    found = []
    if each.name == "kitti" and variants.kitti_mask != "eigen":
        found.append(f"the {variants.kitti_mask} mask; published: eigen")
    if each.task == "normals" and not variants.published_input:
        found.append(PLAIN)
    return found


def _listed(each: EvaluationSet, place: Path) -> list[str] | None:
    beside = (
        [] if each.list_file is None else [place.parent / each.list_file, place / each.list_file]
    )
    return next((read_list(path) for path in beside if path.is_file()), None)
