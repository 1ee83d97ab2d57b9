"""The stages of a bulk run one after the other in this process, in the place of Ray, and inputs for them."""

from contextlib import contextmanager

import cv2
import numpy as np

from e2e_deploy.runtime.bulk import bulk as bulk_module
from e2e_deploy.runtime.bulk.cluster import Share
from e2e_deploy.runtime.bulk.engine_worker import EngineWorker
from e2e_deploy.runtime.bulk.parcel import from_table
from e2e_deploy.runtime.bulk.reading import read_shards

DAMAGED = (3, 11)


def write_pictures(folder, count, sizes=((24, 32), (40, 30))):
    """Pictures of several sizes, of which DAMAGED are none."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        height, width = sizes[number % len(sizes)]
        path = folder / f"p{number:03d}.png"
        cv2.imwrite(str(path), rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        if number in DAMAGED:
            path.write_bytes(path.read_bytes()[:40])
    return folder


def results_of(folder):
    """The files of a folder and those in it but for the bookkeeping, by their relative names."""
    files = {p.relative_to(folder): p for p in folder.rglob("*") if p.is_file()}
    return {str(n): p.read_bytes() for n, p in files.items() if n.parts[0] != "_bulk"}


def without_ray(monkeypatch, *, before_write=lambda parcel: None, order=list):
    """Put the stages themselves in the place of Ray's pipeline.

    Args:
        monkeypatch: of the test.
        before_write: called with each shard before it is written; may raise.
        order: of the shards.
    """

    @contextmanager
    def cluster(address, asked):
        yield None, Share(1, 1, 0)

    def results(data, blocks, engine, writer, share, *, tries_first):
        assert engine.args[-2:] == (share.device, share.threads)
        worker = EngineWorker(*engine.args)
        for table in order(list(blocks)):
            for read in read_shards(table, tries_first=tries_first):
                done = worker(read)
                for parcel in from_table(done):
                    before_write(parcel)
                yield from_table(writer(done))

    monkeypatch.setattr(bulk_module, "cluster", cluster)
    monkeypatch.setattr(bulk_module, "_results", results)
