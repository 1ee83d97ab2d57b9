"""Pictures a second of a bulk run, as the least that its parts can do: no queues, no luck.

    storage -> decode -> engines -> encode -> storage     every picture
    driver (Ray's scheduling), ledger                     every shard, one after the other
    cores                                                 of a machine, which all of its processes share

In a pipeline whose buffers are full the slowest part sets the pace. Left out are the beginning (engines are loaded) and
the end (the last shards), machines that differ, and parts that wait for each other though neither is busy.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Costs:
    """What pictures and shards cost. Seconds are of one process that has its core for itself.

    Attributes:
        decode_s: a picture, by the clock.
        engine_s: a picture, by the clock, of one engine.
        encode_s: a picture, by the clock, with the wait for the disk.
        cpu_s: of a core a picture, all stages and what moves pictures between them, without what shards cost.
        beside: how many times as long an engine takes when every core has one.
        driver_s: a shard, in the process that began the run.
        driver_worker_s: what each worker adds to that.
        ray_s: of a core a shard, in Ray's other processes.
        ledger_s: a shard, with the wait for the disk.
        read_mb: a picture.
        written_mb: a picture.
        files: that are made for a picture.
        moved_mb: a picture, from decode to engine and from engine to encode.
    """

    decode_s: float
    engine_s: float
    encode_s: float
    cpu_s: float
    beside: float
    driver_s: float
    driver_worker_s: float
    ray_s: float
    ledger_s: float
    read_mb: float
    written_mb: float
    files: float
    moved_mb: float


@dataclass(frozen=True)
class Place:
    """Where it runs: machines that are alike, as many as the engines need, and one storage.

    Attributes:
        engines: of a machine, at most.
        cores: of a machine.
        helpers: of a machine, processes that decode and encode.
        network_mb_s: of a machine, each way; infinite where everything is on one.
        storage_mb_s: of all machines together, reading and writing.
        storage_files_s: files that it makes in a second.
    """

    engines: int
    cores: int
    helpers: int
    network_mb_s: float = math.inf
    storage_mb_s: float = math.inf
    storage_files_s: float = math.inf


def limits(costs: Costs, place: Place, workers: int, shard: int) -> dict[str, float]:
    """Pictures a second that each part could do, by its name, with ``workers`` engines."""
    machines = math.ceil(workers / place.engines)
    several = min(workers, place.engines) > 1
    driver_s = costs.driver_s + costs.driver_worker_s * workers
    cpu_s = costs.cpu_s * (costs.beside if several else 1)
    cpu_s += (driver_s + costs.ray_s + costs.ledger_s) / shard
    abroad = (machines - 1) / machines  # of what is moved, where Ray places tasks by chance
    one_way_mb = max(costs.read_mb, costs.written_mb) + abroad * costs.moved_mb
    return {
        "engines": workers / (costs.engine_s * (costs.beside if several else 1)),
        "decode, encode": machines * place.helpers / (costs.decode_s + costs.encode_s),
        "cores": machines * place.cores / cpu_s,
        "network": machines * place.network_mb_s / one_way_mb,
        "storage": place.storage_mb_s / (costs.read_mb + costs.written_mb),
        "files": place.storage_files_s / costs.files,
        "driver": shard / driver_s,
        "ledger": shard / costs.ledger_s,
    }


def rate(costs: Costs, place: Place, workers: int, shard: int) -> tuple[float, str]:
    """Pictures a second, and the part that bounds them."""
    bounds = limits(costs, place, workers, shard)
    part = min(bounds, key=lambda name: bounds[name])
    return bounds[part], part


def saturation(costs: Costs, place: Place, shard: int, most: int = 1000) -> tuple[int, str]:
    """The number of workers from which on another part than the engines bounds the run, up to ``most``, and that part.

    "engines" with ``most`` where none does.
    """
    for workers in range(1, most + 1):
        part = rate(costs, place, workers, shard)[1]
        if part != "engines":
            return workers, part
    return most, "engines"
