"""Renders procedural scenes into a folder data set with exact depth and normals; resumes where it stopped.

    <out>/render.json                    what the set was rendered with; resuming needs the same
    <out>/<split>/camera/<stem>.json     fx, fy, cx, cy in pixels (centres at whole numbers): they vary
    the rest                             see ``folder``

Knows seeds and settings. What is in a scene: see ``scenes``; how it is rendered: ``worker``, ``view``.
"""

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TypedDict

from e2e_deploy.errors import DataError, UsageError
from e2e_deploy.packages import require
from e2e_deploy.system.json_files import read_json
from e2e_deploy.system.text import clean
from e2e_deploy.train.data.files import write_bytes
from e2e_deploy.train.data.folder_spec import DEFAULT_SPLITS, FolderSpec, save_spec
from e2e_deploy.train.rendering.sample import DEPTH_UNIT_M
from e2e_deploy.train.rendering.scenes.scenes import SCENES
from e2e_deploy.train.rendering.variant import choose_variant
from e2e_deploy.train.rendering.worker import RenderJob, render_jobs

log = logging.getLogger(__name__)

MIN_M, MAX_M = 0.05, 65.0
SEEDS_PER_SPLIT = 1_000_000


def scene_seed(split: str, index: int, seed: int = 0) -> int:
    """The scene seed of sample ``index`` of ``split``; splits and data set seeds never share one."""
    if split not in DEFAULT_SPLITS:
        raise UsageError(f"unknown split {split!r}; splits are {', '.join(DEFAULT_SPLITS)}")
    if not 0 <= index < SEEDS_PER_SPLIT:
        raise UsageError(f"sample {index} is outside 0..{SEEDS_PER_SPLIT - 1}")
    return (seed * len(DEFAULT_SPLITS) + DEFAULT_SPLITS.index(split)) * SEEDS_PER_SPLIT + index


class _Settings(TypedDict):
    """What makes two sets the same but for their length."""

    seed: int
    size_hw: list[int]
    samples: int
    scenes: int


def render_data(
    out: str | Path,
    *,
    train: int = 4000,
    val: int = 100,
    test: int = 100,
    size: tuple[int, int] = (256, 320),
    seed: int = 0,
    samples: int = 16,
    workers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Render a data set with exact depth and normals into ``out``; complete samples that are there stay as they are.

    Each sample is rendered in a worker process, which the renderer's compiler may end: see ``worker``.

    Args:
        out: the folder; made when missing.
        train: samples of the split train, 0 for none.
        val: samples of the split val.
        test: samples of the split test.
        size: (height, width) in pixels.
        seed: another one gives other scenes.
        samples: light paths per pixel.
        workers: processes; any number gives the same scenes.
        on_progress: called with (samples done, samples in all), also for those that were there.

    Returns:
        ``out``.

    Raises:
        UsageError: a value cannot be used, or ``out`` holds a set rendered with other settings.
        DataError: what ``out`` says of those is damaged.
        UnavailableError: mitsuba is not installed.
        E2EDeployError: a file cannot be written, or a scene ends every renderer.
    """
    out, counts = Path(out), {"train": train, "val": val, "test": test}
    _check(counts, size, seed, samples=samples, workers=workers)
    require("mitsuba", "train")
    jobs = [
        RenderJob(str(out / split), f"{index:06d}", scene_seed(split, index, seed), size, samples)
        for split in counts
        for index in range(counts[split])
    ]
    _claim(out, {"seed": seed, "size_hw": list(size), "samples": samples, "scenes": SCENES})
    variant = choose_variant()
    waiting = [job for job in jobs if not job.is_complete()]
    done = len(jobs) - len(waiting)
    log.info("%d of %d samples are there already", done, len(jobs))
    report = on_progress or (lambda done, total: None)
    report(done, len(jobs))
    with closing(render_jobs(waiting, variant, workers)) as rendered:
        for _ in rendered:
            done += 1
            report(done, len(jobs))
    return out


def _check(counts: Mapping[str, int], size: tuple[int, int], seed: int, **least: int) -> None:
    """Refuse values that render nothing; those in ``least`` begin at 1."""
    if not any(counts.values()):
        raise UsageError("there is nothing to render: `train`, `val` and `test` are all 0")
    if min(size) < 8:
        raise UsageError(f"cannot render {size[0]}x{size[1]}: both sides must be at least 8 px")
    named = {**counts, "seed": seed, **least}
    for name, value in named.items():
        if value < (lowest := int(name in least)):
            raise UsageError(f"cannot render with `{name}` {value}: expected {lowest} or more")


def _claim(out: Path, settings: _Settings) -> None:
    """Writes the set's description, or checks that the one there has the same settings."""
    marker = out / "render.json"
    if marker.exists():
        there = read_json(marker, error=DataError)
        if there != settings:
            raise UsageError(
                f"{out} was rendered with other settings ({_in_words(there)}, not {_in_words(settings)}): "
                "name another folder"
            )
    write_bytes(marker, json.dumps(settings).encode())
    spec = FolderSpec(
        name="rendered",
        depth_format="png16",
        unit_m=DEPTH_UNIT_M,
        min_m=MIN_M,
        max_m=MAX_M,
        normals_format="png8",
    )
    save_spec(out, spec)


def _in_words(settings: Mapping[str, object]) -> str:
    return clean(", ".join(f"{name} {value}" for name, value in settings.items()), 200)
