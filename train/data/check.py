"""Looks at a folder data set before days of training depend on it.

Knows: counts, missing pairs, damaged files, ranges, what looks wrong
(``suspicions``), a contact sheet for the eye. Does not know: official layouts (prepare them first), training.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import DataError
from e2e_deploy.system.files import require_writable
from e2e_deploy.train.data.encoding import Array
from e2e_deploy.train.data.files import write_picture
from e2e_deploy.train.data.folder import FolderDataset, split_folders
from e2e_deploy.train.data.folder_spec import FolderSpec, load_spec
from e2e_deploy.train.data.sample import FAR_QUANTILE, NEAR_QUANTILE, BadSample, Sample
from e2e_deploy.train.data.suspicions import Suspicions
from e2e_deploy.train.pictures import picture_of

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
    """Smallest valid depth; NaN when there is none, as for the next two."""
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


def check_data(
    root: str | Path,
    *,
    sheet: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Read every sample of every split.

    Args:
        root: a folder data set.
        sheet: PNG with eight samples of the first split, see ``contact_sheet``.
        on_progress: called with (samples read, samples in all).

    Raises:
        DataError: ``dataset.toml`` is wrong, a split holds no complete sample, or there is nothing for the sheet.
        UsageError: the sheet is no PNG, cannot be written, or lies in the data set.
        E2EDeployError: the sheet cannot be written after all.
    """
    root = Path(root)
    if sheet is not None:
        require_writable(Path(sheet), ".png", outside=root)
    spec = load_spec(root)
    report = _read_all(root, spec, on_progress or (lambda done, total: None))
    if sheet is not None:
        contact_sheet(root, sheet)
    return report


def _read_all(root: Path, spec: FolderSpec, on_progress: Callable[[int, int], None]) -> CheckReport:
    sets = {split: FolderDataset(root, split) for split in split_folders(root, spec)}
    total, done = sum(map(len, sets.values())), 0
    reports, suspicions = dict[str, SplitReport](), list[str]()
    for split, dataset in sets.items():
        rows, bad = list[tuple[float, ...]](), list[BadSample]()
        odd = Suspicions(spec, len(dataset))
        for index, stem in enumerate(dataset.stems):
            try:
                sample = dataset.read(index)
            except DataError as error:
                bad.append(BadSample(stem, str(error)))
            else:
                rows.append(_statistics(sample))
                odd.add(stem, sample)
            done += 1
            on_progress(done, total)
        reports[split] = _split_report(dataset, rows, bad)
        suspicions += [f"{split}: {sentence}" for sentence in odd.sentences()]
    return CheckReport(
        name=spec.name,
        has_normals=spec.normals_format is not None,
        splits=reports,
        suspicions=tuple(suspicions),
    )


def _split_report(
    dataset: FolderDataset, rows: list[tuple[float, ...]], bad: list[BadSample]
) -> SplitReport:
    table = np.array(rows or [(np.nan,) * 4])
    with_depth = table[np.isfinite(table[:, 0])] if np.isfinite(table[:, 0]).any() else table
    return SplitReport(
        num_samples=len(dataset),
        missing=tuple(dataset.missing),
        bad=tuple(bad),
        min_m=float(with_depth[:, 0].min()),
        median_m=float(np.median(with_depth[:, 1])),
        max_m=float(with_depth[:, 2].max()),
        valid_share=float(table[:, 3].mean()),
    )


def contact_sheet(
    root: Path | str, out_png: Path | str, *, split: str | None = None, num_samples: int = 8
) -> int:
    """Write a picture with one row per sample: colour, depth (near bright), normals, mask, matte.

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
            rows.append(_row(dataset.read(int(index))))
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
    if not depth.size:
        return (np.nan, np.nan, np.nan, 0.0)
    share = float(sample.valid.mean())
    return float(depth.min()), float(np.median(depth)), float(depth.max()), share


def _row(sample: Sample) -> npt.NDArray[np.uint8]:
    near, far = 0.0, 1.0
    if sample.valid.any():
        near, far = np.quantile(sample.depth_m[sample.valid], [NEAR_QUANTILE, FAR_QUANTILE])
    closeness = np.clip((far - sample.depth_m) / max(far - near, 1e-6), 0, 1)
    gray = np.rint(closeness * 255).astype(np.uint8)
    depth_rgb = cv2.cvtColor(cv2.applyColorMap(gray, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    tiles: list[Array] = [sample.rgb, depth_rgb * sample.valid[..., None]]
    if sample.normals is not None:
        colors = np.rint((sample.normals + 1) * 127.5).astype(np.uint8)
        tiles.append(colors * sample.normals.any(axis=-1, keepdims=True))
    tiles += [picture_of(each) for each in (sample.mask, sample.matte) if each is not None]
    height, width = sample.valid.shape
    size = (TILE_WIDTH, max(1, round(height * TILE_WIDTH / width)))
    resized = [cv2.resize(tile, size, interpolation=cv2.INTER_AREA) for tile in tiles]
    return np.concatenate(resized, axis=1).astype(np.uint8)
