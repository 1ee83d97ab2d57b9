"""``e2e-deploy bulk``: many pictures through bundles, each exactly once."""

import sys
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from e2e_deploy.cli import INTERRUPTED, options
from e2e_deploy.names import BULK_DEVICES, BULK_FORMATS, BackendChoice
from e2e_deploy.progress import Count
from e2e_deploy.system.json_files import to_json
from e2e_deploy.system.text import clean

if TYPE_CHECKING:
    from e2e_deploy.runtime.bulk.report import BulkReport

SHOWN_FAILURES = 5


@click.command("bulk")
@click.argument("source", metavar="INPUT", type=options.PLACE)
@click.option(
    "--bundle",
    "bundles",
    multiple=True,
    required=True,
    help="A bundle's folder; repeat for several in one pass, such as depth and normals.",
)
@click.option(
    "--out",
    type=options.PLACE,
    required=True,
    help="A new folder, or that of a run that was not finished, which goes on; or an address in an object store.",
)
@click.option(
    "--column", default=None, help="Of a list: which column holds the paths.  [default: path]"
)
@click.option(
    "--topic",
    default=None,
    help="Of logs and data sets of robots: whose pictures.  [default: the only ones there are]",
)
@options.backend
@click.option(
    "--device",
    type=click.Choice(BULK_DEVICES),
    default="auto",
    show_default=True,
    help="Where engines run; each gets a GPU of its own.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 100_000),
    default=None,
    help="Engines at once.  [default: one a GPU, or one for every --cores]",
)
@click.option(
    "--cores",
    type=click.IntRange(1, 1024),
    default=None,
    help="Of an engine on a CPU.  [default: 4, or what there is]",
)
@click.option(
    "--format",
    type=click.Choice(BULK_FORMATS),
    default="png16",
    show_default=True,
    help="png16: files of every picture, as `run` has them; parquet, webdataset: a file of every shard holds them; "
    "zarr: arrays of every shard, in one store.",
)
@click.option(
    "--shard",
    type=click.IntRange(1, 4096),
    default=16,
    show_default=True,
    help="Pictures that are handed on at once, and that share a file.",
)
@click.option(
    "--address",
    default=None,
    help="Of a cluster of Ray, or auto for this machine's.  [default: Ray is begun here and ended]",
)
@options.as_json
def command(
    source: str | Path,
    bundles: tuple[str, ...],
    out: str | Path,
    backend: BackendChoice,
    as_json: bool,
    **arguments: Any,
) -> int:
    """Run every picture of INPUT through a bundle, or several, on one machine or a cluster of Ray.

    INPUT is a folder of pictures, with those in it, a list of paths (.parquet, .csv, .jsonl), a tar, a video, a
    robot's log or a LeRobot data set; these may be in the folder or list, too. It may be the address of a prefix of
    pictures or a list in an object store, such as s3://bucket/pictures, and OUT that of a prefix. OUT gets the 16-bit
    PNGs and sidecars that `run` writes, or files that hold them, and OUT/_bulk the report and the pictures that could
    not be read, with their reasons. Repeat the same command after a crash: what is finished is not done again.
    """
    from e2e_deploy.runtime.bulk.bulk import bulk

    with ExitStack() as stack:
        counts: list[Count] = []
        stack.enter_context(redirect_stdout(sys.stderr))  # Ray prints there that a worker died

        def show(report: "BulkReport") -> None:
            if not counts:
                counts.append(stack.enter_context(Count("bulk", first=report.finished)))
                if report.before:
                    counts[0].say(f"{report.before} of {report.pictures} were done before")
            counts[0](report.finished, report.pictures, f"{report.per_second:.1f}/s")

        report = bulk(source, bundles, out, backend=backend, on_progress=show, **arguments)
    _summarise(report)
    if as_json:
        click.echo(to_json(report.values(), indent=2))
    else:
        click.echo(f"{report.out}/_bulk/report.json")
    return INTERRUPTED if report.interrupted else int(not report.complete)


def _summarise(report: "BulkReport") -> None:
    """The end, for people, on stderr."""
    for note in report.notes:
        click.echo(clean(note), err=True)
    new = report.finished - report.before
    rate = f", {report.per_second:.1f} pictures/s" if new else ""
    click.echo(
        f"{report.finished} of {report.pictures} pictures are done, {new} of them now{rate}",
        err=True,
    )
    if new:
        click.echo(
            f"{report.workers} engine{'s' * (report.workers > 1)}, busy {100 * report.utilisation:.0f} % of the time",
            err=True,
        )
    for failure in report.failures[:SHOWN_FAILURES]:
        click.echo(f"no result: {clean(failure.reason)}", err=True)
    if report.failures:
        table = f"{report.out}/_bulk/failed.csv"
        count = len(report.failures)
        found = "1 picture has" if count == 1 else f"{count} pictures have"
        click.echo(f"{found} no result; {table} says why", err=True)
    if report.unknown_results:
        click.echo(f"{report.unknown_results} results hold no number", err=True)
