"""``bulk``: many pictures through bundles, each exactly once, on one machine or on a cluster of Ray.

    items -> shards -> decode (tasks) -> engines (actors) -> encode and write (tasks) -> ledger (here)

A shard is a few pictures in a row. Ray moves shards between the stages and keeps a fast stage from running away from a
slow one. What is finished is in the ledger; what was on its way when something died is done again, to the same files.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from e2e_deploy.bundle.bundle import Bundle, open_bundle, sha256_of
from e2e_deploy.errors import E2EDeployError, UsageError
from e2e_deploy.names import (
    BACKEND_CHOICES,
    BULK_DEVICES,
    BULK_FORMATS,
    BackendChoice,
    BulkDevice,
    BulkFormat,
)
from e2e_deploy.packages import require
from e2e_deploy.runtime.bulk.cluster import Asked, Share, cluster
from e2e_deploy.runtime.bulk.engine_worker import EngineOrder, EngineWorker
from e2e_deploy.runtime.bulk.inputs.item import BulkItem, Read
from e2e_deploy.runtime.bulk.inputs.listing import Listing, list_items
from e2e_deploy.runtime.bulk.inputs.reading import read_items
from e2e_deploy.runtime.bulk.ledger import MAX_BYTES, Ledger
from e2e_deploy.runtime.bulk.outputs.folder import BOOKS
from e2e_deploy.runtime.bulk.outputs.layouts import LAYOUTS
from e2e_deploy.runtime.bulk.parcel import Parcel, Table, from_table, to_orders
from e2e_deploy.runtime.bulk.reading import read_shards
from e2e_deploy.runtime.bulk.report import REPORT, BulkReport, is_told, report_files
from e2e_deploy.runtime.bulk.store import is_address
from e2e_deploy.runtime.bulk.writing import ShardWriter
from e2e_deploy.runtime.fit import best_size
from e2e_deploy.system.text import clean

SHARD = 16
MAX_SHARD = 4096
MAX_BLOCKS = 2000  # pieces that Ray is handed at the start; it keeps something of each in memory
RETRIES = 3  # of a shard whose worker died
RESTARTS = 10  # of one engine's worker
COMMIT_S, COMMIT_SHARDS = 2.0, 256
MAX_NOTES = 100
DIED = (
    f"a worker died of the same pictures {RETRIES + 1} times; what was left was tried in processes apart first, and "
    "what ended those is among the failures"
)

OnProgress = Callable[[BulkReport], None]


def bulk(
    source: str | Path,
    bundles: str | Path | Bundle | Sequence[str | Path | Bundle],
    out: str | Path,
    *,
    column: str | None = None,
    topic: str | None = None,
    backend: BackendChoice = "auto",
    device: BulkDevice = "auto",
    workers: int | None = None,
    cores: int | None = None,
    format: BulkFormat = "png16",
    shard: int = SHARD,
    address: str | None = None,
    on_progress: OnProgress = lambda report: None,
) -> BulkReport:
    """Run every picture of a folder, list, tar, video or log through bundles; repeat a killed run, and it goes on.

    The results are 16-bit PNGs with their sidecars, the same bytes as ``run`` writes: as files, of a picture in a
    folder within ``source`` in the same folder within ``out``, or in a file a shard; or their numbers as Zarr. Beside
    them ``out/_bulk`` holds what is finished, report.json, and the pictures without results with their reasons as
    failed.csv and failed.parquet.

    Args:
        source: a folder of pictures, with those in it; a list (.parquet, .csv, .jsonl) of their paths; a tar of
            pictures; a video; a robot's log; or a LeRobot data set. These may lie in the folder or stand in the list as
            well. Or the address of a prefix of pictures, or of a list, in an object store (s3://, gs://, and what
            fsspec knows); lists may name addresses.
        bundles: folders or opened ones; of several each gives results of another name, such as depth and normals.
        out: a folder, or the address of a prefix in an object store: a new one, an empty one, or one of the same run
            that was not finished. On a cluster ``source``, ``bundles`` and ``out`` lie where every machine sees them.
        column: of a list, which holds the paths; ``path`` if None.
        topic: of logs and data sets of robots, whose pictures; None takes the only one there is.
        backend: what runs the bundles, as ``load``.
        device: auto, cpu, or cuda; Ray says which GPU is whose.
        workers: engines at once; None takes every GPU, or on a CPU as many as its cores make.
        cores: of an engine on a CPU; None takes 4, or all of fewer.
        format: png16 for files of every picture; parquet or webdataset for a file of every shard that holds them; zarr
            for one store, ``out/results.zarr``, with a group of every shard, in it an array of every size and result.
        shard: pictures that are handed on at once, and that share a file; a worker holds some shards, decoded, in
            memory.
        address: of a cluster of Ray; None begins one here, which ends with this call.
        on_progress: called with the report so far before the first shard and after each.

    Returns:
        The report. Ctrl-C ends the run, and the report says so.

    Raises:
        UsageError: arguments that do not go together, or an ``out`` that was begun with others.
        SourceError: the input is missing, or names no picture. Damaged pictures are no error, and in the report.
        BundleError: not a bundle, or damaged.
        UnavailableError: Ray, the cluster, the backend or the device is not here.
        E2EDeployError: nothing can be written, or workers die again and again; what is finished is kept.
    """
    _check(backend, device, format, workers=workers, cores=cores, shard=shard)
    require("ray", "bulk")
    opened = _opened(bundles)
    place: str | Path = source if is_address(source) else Path(source)
    target: str | Path = out if is_address(out) else Path(out)
    if isinstance(place, Path) and os.path.exists(place):
        place = place.absolute()  # workers may be at home in another folder
    ledger = Ledger(target)  # refuses an address with credentials, before anything names it
    _check_apart(place, target)
    listing = list_items(place, column, topic)
    orders = [EngineOrder(str(b.root.resolve()), _frame_size(b, listing, shard)) for b in opened]
    plan = _plan(
        *(listing, opened, orders),
        backend=backend,
        device=device,
        format=format,
        shard=shard,
    )
    with ledger.open(plan):
        report = BulkReport(len(listing.items), target)
        _tell(report, ledger)
        report.before = report.finished
        report.notes += listing.notes[:MAX_NOTES]
        shards = listing.shards(shard)
        todo = ledger.left(len(shards))
        on_progress(report)
        if todo:
            ledger.output.write(LAYOUTS[format].root)
            with cluster(address, Asked(workers, cores, device, backend)) as (data, share):
                ledger.check()  # once more: in a store another may have begun meanwhile
                report.workers = share.workers
                writings = [(b.manifest, o.frame_size) for b, o in zip(opened, orders, strict=True)]
                for tries_first in (False, True):
                    rows = _results(
                        data,
                        _blocks(listing.items, shards, ledger.left(len(shards))),
                        partial(EngineWorker, orders, backend, share.device, share.threads),
                        ShardWriter(ledger.output, writings, format),
                        share,
                        tries_first=tries_first,
                    )
                    if _collect(rows, ledger, report, on_progress, may_die=not tries_first):
                        break
                    report.notes.append(DIED)
            if not report.interrupted:
                ledger.output.tidy()  # what workers that died left
        # That of the run that did it stays.
        if todo or not is_told(ledger.output.read(f"{BOOKS}/{REPORT}", MAX_BYTES), report.finished):
            ledger.output.write(report_files(report))
    return report


def _check(backend: str, device: str, layout: str, *, shard: int, **counts: int | None) -> None:
    if backend not in BACKEND_CHOICES:
        raise UsageError(
            f"unknown `backend` {backend!r}; the backends are {', '.join(BACKEND_CHOICES)}"
        )
    if device not in BULK_DEVICES:
        raise UsageError(
            f"`device` is {device!r}; of a bulk run it is one of {', '.join(BULK_DEVICES)}: Ray says which GPU is whose"
        )
    if layout not in BULK_FORMATS:
        raise UsageError(f"unknown `format` {layout!r}; the formats are {', '.join(BULK_FORMATS)}")
    if not 1 <= shard <= MAX_SHARD:
        raise UsageError(f"`shard` is {shard}; expected 1 to {MAX_SHARD} pictures")
    for name, count in counts.items():
        if count is not None and not 1 <= count <= 100_000:
            raise UsageError(f"`{name}` is {count}; expected 1 or more")


def _opened(given: str | Path | Bundle | Sequence[str | Path | Bundle]) -> list[Bundle]:
    several = [given] if isinstance(given, str | Path | Bundle) else list(given)
    if not several:
        raise UsageError("`bundles` names no bundle")
    opened = [open_bundle(each) for each in several]
    owners: dict[str, Bundle] = {}
    for bundle in opened:
        for kind in bundle.manifest.kinds:
            if kind.output in owners:
                raise UsageError(
                    f"{owners[kind.output].root} and {bundle.root} both give {kind.output}, and their files would have "
                    "the same names; run them one after the other, each with its own `out`"
                )
            owners[kind.output] = bundle
    return opened


def _check_apart(source: str | Path, out: str | Path) -> None:
    """Results among the pictures would be pictures of the next run."""
    if isinstance(source, Path) and isinstance(out, Path):
        within = source.is_dir() and out.resolve().is_relative_to(source.resolve())
    else:
        within = f"{out}/".startswith(f"{str(source).rstrip('/')}/")
    if within:
        raise UsageError(
            f"`out` {out} lies in {source}, whose pictures are read; give another folder"
        )


def _frame_size(bundle: Bundle, listing: Listing, shard: int) -> tuple[int, int]:
    """Of several sizes the one that fits the first picture best that can be read, as ``run`` chooses."""
    sizes = bundle.manifest.frame_sizes
    for indices in listing.shards(shard) if len(sizes) > 1 else ():
        items = listing.items[indices.start : indices.stop]
        for _, read in read_items(items, lambda text: None):
            if isinstance(read, Read):
                return best_size((read.rgb.shape[0], read.rgb.shape[1]), sizes)
    return sizes[0]


def _plan(
    listing: Listing,
    opened: list[Bundle],
    orders: list[EngineOrder],
    *,
    shard: int,
    **settings: str,
) -> dict[str, Any]:
    """What must be the same when a run goes on: results depend on it, or which shard holds what."""
    return {
        "schema": 1,
        "pictures": len(listing.items),
        "inputs": listing.digest,
        "bundles": [sha256_of(bundle.root / "manifest.json") for bundle in opened],
        "settings": {
            **settings,
            "shard": shard,
            "frame_sizes": [list(order.frame_size) for order in orders],
        },
    }


def _blocks(items: list[BulkItem], shards: list[range], todo: list[int]) -> Iterator[Table]:
    """The shards that are left, as tables of a few orders; those of a stretch are one, for one worker reads them."""
    orders: list[list[int]] = []
    before: object | None = None
    for number in todo:
        stretch = items[shards[number].start].stretch
        if stretch is None or stretch is not before:
            orders.append([])
        orders[-1].append(number)
        before = stretch
    each = -(-len(orders) // MAX_BLOCKS)
    for first in range(0, len(orders), each):
        yield to_orders(
            [
                [Parcel(n, items[shards[n].start : shards[n].stop]) for n in numbers]
                for numbers in orders[first : first + each]
            ]
        )


def _results(
    data: Any,
    blocks: Iterator[Any],
    engine: "partial[EngineWorker]",
    writer: ShardWriter,
    share: Share,
    *,
    tries_first: bool,
) -> Iterator[list[Parcel]]:
    """Ray's pipeline, as parcels that were written, in any order."""
    pool = data.ActorPoolStrategy(size=share.workers)
    retried = {"max_retries": RETRIES}
    shards = (
        data.from_arrow(list(blocks))
        .map_batches(
            read_shards,
            fn_kwargs={"tries_first": tries_first},
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=1,
            ray_remote_args_fn=lambda: retried,
        )
        .map_batches(
            EngineWorker,
            fn_constructor_args=engine.args,
            compute=pool,
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=share.cores,
            num_gpus=share.gpus,
            ray_remote_args_fn=lambda: {"max_restarts": RESTARTS, "max_task_retries": RETRIES},
        )
        .map_batches(
            writer.__call__,
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=1,
            ray_remote_args_fn=lambda: retried,
        )
    )
    for table in shards.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from_table(table)


def _collect(
    rows: Iterator[list[Parcel]],
    ledger: Ledger,
    report: BulkReport,
    on_progress: OnProgress,
    *,
    may_die: bool,
) -> bool:
    """Put into the ledger what was written, until all is or something stops it.

    False where workers died of one shard again and again, which is an error unless it ``may_die``.
    """
    committed_s = time.monotonic()
    start_s = committed_s - report.seconds
    waiting: list[Parcel] = []
    try:
        for parcels in rows:
            waiting += parcels
            now_s = time.monotonic()
            report.seconds = now_s - start_s
            _count(report, parcels)
            if len(waiting) >= COMMIT_SHARDS or now_s - committed_s >= COMMIT_S:
                ledger.commit(waiting)
                waiting, committed_s = [], now_s
            on_progress(report)
    except KeyboardInterrupt:
        report.interrupted = True
    except Exception as error:
        if may_die and _is_death(error):
            return False
        raise _plain(error, report) from error
    finally:
        try:
            ledger.commit(waiting)
        except E2EDeployError as error:  # a full disk
            _tell(report, ledger)
            raise _again(type(error), str(error), report) from error
        _tell(report, ledger)
    return True


def _is_death(error: BaseException) -> bool:
    """Whether a task's process ended, and not the task in an error of its own."""
    crashed = require("ray.exceptions", "bulk").WorkerCrashedError
    return isinstance(error, crashed) or isinstance(getattr(error, "cause", None), crashed)


def _count(report: BulkReport, parcels: list[Parcel]) -> None:
    for parcel in parcels:
        report.written += parcel.written
        report.failures += parcel.failures
        report.unknown_results += parcel.unknown
        for stage, seconds in parcel.seconds.items():
            report.stage_seconds[stage] = report.stage_seconds.get(stage, 0.0) + seconds
        for note in parcel.notes:
            if len(report.notes) < MAX_NOTES and note not in report.notes:
                report.notes.append(note)


def _tell(report: BulkReport, ledger: Ledger) -> None:
    """The ledger's numbers, which count what earlier runs did as well."""
    report.written, report.unknown_results = ledger.written, ledger.unknown
    report.failures = list(ledger.failures.values())


def _plain(error: BaseException, report: BulkReport) -> E2EDeployError:
    """What stopped a worker, as the error that it raised, without Ray's own words around it."""
    # Ray's error is of both kinds, and its text is the traceback; its cause is what was raised, our sentence with lines
    # of Ray's own below it.
    inner = getattr(error, "cause", None) or error
    if isinstance(inner, E2EDeployError):
        return _again(type(inner), str(inner).partition("\n")[0], report)
    said = clean(str(error).strip().rpartition("\n")[2], 300) or type(error).__name__
    return _again(E2EDeployError, f"the bulk run stopped: {said}", report)


def _again(kind: type[E2EDeployError], said: str, report: BulkReport) -> E2EDeployError:
    return kind(
        f"{said}; {report.finished} of {report.pictures} pictures are done, and the same call goes on there"
    )
