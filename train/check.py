"""Looks at a folder data set before days of training depend on it.

Knows: counts, missing pairs, damaged files, ranges, signs of a wrong unit or wrong axes, a contact
sheet for the eye. Does not know: official layouts (prepare them first), training.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import DataError
from e2e_deploy.train.encoding import Array
from e2e_deploy.train.files import write_picture
from e2e_deploy.train.folder import FolderDataset, split_folders
from e2e_deploy.train.folder_spec import load_spec
from e2e_deploy.train.prepare import BadSample
from e2e_deploy.train.sample import Sample, suspect_unit

TILE_WIDTH = 320


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitReport:
    """What one split holds."""

    num_samples: int
    """Complete samples, bad ones included."""
    missing: tuple[str, ...]
    """Files that should exist because one of their pair does."""
    bad: tuple[BadSample, ...]
    min_m: float
    """Smallest valid depth; NaN when no sample could be read, as for the next three."""
    median_m: float
    """Median over samples of each sample's median depth."""
    max_m: float
    valid_share: float
    """Mean share of pixels with valid depth."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckReport:
    """What a data set holds and what is wrong with it."""

    name: str
    has_normals: bool
    splits: dict[str, SplitReport]
    suspicions: tuple[str, ...]
    """Sentences about what looks wrong although it can be read."""

    @property
    def ok(self) -> bool:
        """Nothing is missing, damaged or suspected."""
        found = [*self.suspicions]
        for split in self.splits.values():
            found += [*split.missing, *(bad.name for bad in split.bad)]
        return not found


def check_dataset(
    root: Path | str, progress: Callable[[int, int], None] | None = None
) -> CheckReport:
    """Read every sample of every split.

    Args:
        root: a folder data set.
        progress: called with (samples read, samples in all).

    Raises:
        DataError: ``dataset.toml`` is wrong, or a split holds no complete sample.
    """
    root = Path(root)
    spec = load_spec(root)
    sets = {split: FolderDataset(root, split) for split in split_folders(root, spec)}
    total, done = sum(map(len, sets.values())), 0
    reports, suspicions = dict[str, SplitReport](), list[str]()
    for split, dataset in sets.items():
        rows, bad = list[tuple[float, ...]](), list[BadSample]()
        for index, stem in enumerate(dataset.stems):
            try:
                sample = dataset.read(index)
                if not sample.valid.any():
                    raise DataError(f"{sample.path}: no valid depth pixel")
                rows.append(_statistics(sample))
            except DataError as error:
                bad.append(BadSample(stem, str(error)))
            done += 1
            if progress is not None:
                progress(done, total)
        table = np.array(rows or [(np.nan,) * 5])
        reports[split] = SplitReport(
            num_samples=len(dataset),
            missing=tuple(dataset.missing),
            bad=tuple(bad),
            min_m=float(table[:, 0].min()),
            median_m=float(np.median(table[:, 1])),
            max_m=float(table[:, 2].max()),
            valid_share=float(table[:, 3].mean()),
        )
        found = (suspect_unit(reports[split].median_m), _suspect_axes(table[:, 4]))
        suspicions += [f"{split}: {sentence}" for sentence in found if sentence]
    return CheckReport(
        name=spec.name,
        has_normals=spec.normals_format is not None,
        splits=reports,
        suspicions=tuple(suspicions),
    )


def contact_sheet(
    root: Path | str, out_png: Path | str, *, split: str | None = None, num_samples: int = 8
) -> int:
    """Write a picture with one row per sample: colour, depth (near bright), normals.

    Args:
        root: a folder data set.
        out_png: picture to write.
        split: which split; None takes the first there is.
        num_samples: rows, spread evenly over the split; samples that cannot be read are left out.

    Returns:
        Rows written.

    Raises:
        DataError: ``dataset.toml`` is wrong, or no sample can be read.
    """
    root = Path(root)
    dataset = FolderDataset(root, split or next(iter(split_folders(root, load_spec(root)))))
    wanted = np.linspace(0, len(dataset) - 1, min(num_samples, len(dataset))).round().astype(int)
    rows = list[Array]()
    for index in wanted:
        try:
            sample = dataset.read(int(index))
            if sample.valid.any():
                rows.append(_row(sample))
        except DataError:
            continue
    if not rows:
        raise DataError(f"{dataset.folder}: none of {len(wanted)} samples can be read")
    height = max(row.shape[0] for row in rows)
    padded = [np.pad(row, ((0, height - row.shape[0]), (0, 0), (0, 0))) for row in rows]
    write_picture(Path(out_png), np.concatenate(padded))
    return len(rows)


def _statistics(sample: Sample) -> tuple[float, ...]:
    depth = sample.depth_m[sample.valid]
    toward = np.nan
    if sample.normals is not None and sample.normals.any():
        toward = float(np.mean(sample.normals[sample.normals.any(axis=-1), 2] > 0))
    return (
        float(depth.min()),
        float(np.median(depth)),
        float(depth.max()),
        float(sample.valid.mean()),
        toward,
    )


def _suspect_axes(toward_shares: npt.NDArray[np.float64]) -> str | None:
    """A visible surface faces the camera, so almost every normal has a positive z."""
    known = toward_shares[np.isfinite(toward_shares)]
    if known.size and known.mean() < 0.5:
        return (
            f"{1 - known.mean():.0%} of the normals point away from the viewer: the axes look wrong; "
            "check normals.axes"
        )
    return None


def _row(sample: Sample) -> npt.NDArray[np.uint8]:
    depth = sample.depth_m[sample.valid]
    near, far = np.quantile(depth, [0.02, 0.98])
    closeness = np.clip((far - sample.depth_m) / max(far - near, 1e-6), 0, 1)
    gray = np.rint(closeness * 255).astype(np.uint8)
    depth_rgb = cv2.cvtColor(cv2.applyColorMap(gray, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    tiles: list[Array] = [sample.rgb, depth_rgb * sample.valid[..., None]]
    if sample.normals is not None:
        colors = np.rint((sample.normals + 1) * 127.5).astype(np.uint8)
        tiles.append(colors * sample.normals.any(axis=-1, keepdims=True))
    height, width = sample.valid.shape
    size = (TILE_WIDTH, max(1, round(height * TILE_WIDTH / width)))
    resized = [cv2.resize(tile, size, interpolation=cv2.INTER_AREA) for tile in tiles]
    return np.concatenate(resized, axis=1).astype(np.uint8)
