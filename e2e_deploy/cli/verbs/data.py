"""``e2e-deploy data``: data sets prepared from official downloads, rendered, packed, and checked."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from e2e_deploy.cli import options
from e2e_deploy.names import DATA_KINDS, ON_BAD, DataKind, OnBad
from e2e_deploy.system.json_files import to_json

if TYPE_CHECKING:
    from e2e_deploy.train.data.check import CheckReport
    from e2e_deploy.train.preparation.conversion import PrepareReport


@click.group("data")
def command() -> None:
    """Prepare, render, pack and check folder data sets, the one layout that training reads."""


@command.command("prepare")
@click.argument("kind", type=click.Choice(DATA_KINDS))
@click.argument("source", type=options.PATH)
@click.argument("out", type=options.PATH)
@click.option("--workers", type=options.WORKERS, default=1, show_default=True)
@click.option(
    "--on-bad",
    type=click.Choice(ON_BAD),
    default="skip",
    show_default=True,
    help="Name damaged samples and go on, or stop at the first.",
)
@click.option("--no-normals", is_flag=True, help="Hypersim without normals, for depth alone.")
@click.option(
    "--val-scene",
    "val_scenes",
    multiple=True,
    metavar="SceneXX",
    help="Virtual KITTI 2 scene that becomes the split val; may be repeated.",
)
@options.as_json
def prepare(
    kind: DataKind,
    source: Path,
    out: Path,
    workers: int,
    on_bad: OnBad,
    no_normals: bool,
    val_scenes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Turn the official download in SOURCE into the folder data set OUT; killed runs continue."""
    from e2e_deploy.progress import Count
    from e2e_deploy.train.preparation.prepare import prepare_data

    with Count(f"preparing {kind}") as count:
        report = prepare_data(
            kind,
            source,
            out,
            normals=not no_normals,
            val_scenes=val_scenes,
            workers=workers,
            on_bad=on_bad,
            on_progress=count,
        )
    _show_prepared(report, as_json)


@command.command("render")
@click.argument("out", type=options.PATH)
@click.option("--train", type=options.COUNT_OR_NONE, default=4000, show_default=True)
@click.option("--val", type=options.COUNT_OR_NONE, default=100, show_default=True)
@click.option("--test", type=options.COUNT_OR_NONE, default=100, show_default=True)
@click.option(
    "--size", type=options.frame_size, default="256x320", show_default=True, metavar="HxW"
)
@click.option("--seed", type=options.SEED, default=0, show_default=True)
@click.option(
    "--samples",
    type=click.IntRange(1, 65536),
    default=16,
    show_default=True,
    help="Paths per pixel.",
)
@click.option("--workers", type=options.WORKERS, default=1, show_default=True)
def render(
    out: Path,
    train: int,
    val: int,
    test: int,
    size: tuple[int, int],
    seed: int,
    samples: int,
    workers: int,
) -> None:
    """Render a data set with exact depth and normals into OUT; killed runs continue."""
    from e2e_deploy.progress import Count
    from e2e_deploy.train.rendering.render import render_data

    with Count("rendering") as count:
        folder = render_data(
            out,
            train=train,
            val=val,
            test=test,
            size=size,
            seed=seed,
            samples=samples,
            workers=workers,
            on_progress=count,
        )
    click.echo(str(folder))


@command.command("pack")
@click.argument("root", type=options.PATH)
@click.argument("out", type=options.PATH)
@click.option(
    "--shard-mb",
    type=click.IntRange(1, 100_000),
    default=256,
    show_default=True,
    help="A tar begins when the one before has so many MB.",
)
@options.as_json
def pack(root: Path, out: Path, shard_mb: int, as_json: bool) -> None:
    """Copy the folder data set ROOT into OUT, its files in tars (WebDataset's shards), which trains the same."""
    from e2e_deploy.progress import Count
    from e2e_deploy.train.preparation.pack import pack_data

    with Count("packing") as count:
        report = pack_data(root, out, shard_mb=shard_mb, on_progress=count)
    if as_json:
        click.echo(to_json(asdict(report)))
        return
    click.echo(
        f"{report.num_samples} samples in {report.num_shards} shards, {report.num_bytes / 1e6:.1f} MB"
    )


@command.command("check")
@click.argument("root", type=options.PATH)
@click.option("--sheet", type=options.PATH, help="Write a PNG with a few samples.")
@options.as_json
def check(root: Path, sheet: Path | None, as_json: bool) -> None:
    """Read every sample of the folder data set ROOT; exit code 5 when something is wrong."""
    from e2e_deploy.errors import DataError
    from e2e_deploy.progress import Count
    from e2e_deploy.train.data.check import check_data

    with Count("reading") as count:
        report = check_data(root, sheet=sheet, on_progress=count)
    if as_json:
        click.echo(to_json(asdict(report) | {"ok": report.ok}))
    else:
        _show_checked(report)
    for split in report.splits.values():
        _say("missing", split.missing)
        _say("bad", (f"{bad.name}: {bad.reason}" for bad in split.bad))
    _say("suspicious", report.suspicions)
    if not report.ok:
        raise DataError(f"{root} has missing, damaged or suspicious samples, named above")


def _show_checked(report: "CheckReport") -> None:
    click.echo(f"{report.name}: {'with' if report.has_normals else 'no'} normals")
    for name, split in report.splits.items():
        line = f"  {name}: {split.num_samples} samples"
        if split.valid_share > 0:
            line += (
                f", depth {split.min_m:.3g} to {split.max_m:.4g} m, median {split.median_m:.3g} m, "
                f"{split.valid_share:.1%} valid"
            )
        click.echo(line)


def _show_prepared(report: "PrepareReport", as_json: bool) -> None:
    _say("bad", (f"{bad.name}: {bad.reason}" for bad in report.bad))
    _say("suspicious", report.suspicions)
    _say("note", report.notes)
    if as_json:
        click.echo(to_json(asdict(report)))
        return
    click.echo(
        f"{report.num_written} written, {report.num_kept} already there, {len(report.bad)} bad, "
        f"{report.num_absent} not downloaded"
    )


def _say(kind: str, sentences: Iterable[str]) -> None:
    for sentence in sentences:
        click.echo(f"{kind}: {sentence}", err=True)
