"""What an evaluation set of the published protocol is: one record, the same for depth and for normals.

Knows: the words and numbers that messages, pages and measurements read. Does not know: files, metrics.
Source: the evaluation code of E2E-FT (arXiv 2409.11355), which takes its depth sets from Marigold and its normals
from DSINE.
"""

from dataclasses import dataclass
from typing import Literal

from e2e_deploy.names import Measure, SetName

Averaging = Literal["images", "pixels"]
"""images: metrics of each image, then the mean over images. pixels: pooled over every valid pixel of the set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSet:
    """One set as the protocol uses it."""

    name: SetName
    title: str
    """As papers print it."""
    task: Measure
    """What its truth is."""
    num_images: int
    """How many the published numbers are of."""
    places: tuple[str, ...]
    """Where it lies below the folder of all sets: an archive (``.tar``) or a folder with the same content. The first
    that is there is read."""
    list_file: str | None
    """Name of the published list of its files, which is followed where it lies beside the archive; None: what is
    there is the list."""
    layout: str
    """The files of one image, in words."""
    how_to_get: str
    """A paragraph: address, where to put it, licence as far as it is known."""
    resolution: int
    """Longest edge that the network sees, in pixels; 0: the picture's own."""
    range_m: tuple[float, float]
    """Aligned depth is clipped to it, in metres; of no meaning for normals."""
    mask: str
    """What is cut off and which pixels count, in words."""
    alignment: str
    """How a result is made comparable with the truth, in words."""
    align_longest_px: int | None = None
    """Scale and shift are fitted on a nearest-neighbour sample of this many pixels along the rows; None: on all."""
    averaging: Averaging
    domain: Literal["indoor", "outdoor", "object"] = "indoor"
    """What GeoWizard is told."""
