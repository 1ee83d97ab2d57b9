"""A list of 100 000 pictures: the memory of the run and of Ray does not grow with it; BULK_MANY=1 runs it (minutes)."""

import json
import os
import subprocess
import sys
import time

import pytest

from tests.plain_bundle import write_plain_bundle
from tests.runtime.bulk.processes import below, memory
from tests.runtime.bulk.serial import write_pictures

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(os.environ.get("BULK_MANY") != "1", reason="BULK_MANY=1 runs it"),
]
COUNT = int(os.environ.get("BULK_MANY_PICTURES", "100000"))
FILES = 10
EVERY_S = 2.0
DRIVER_MIB, ALL_MIB = 60, 250
"""What may come to it while the last four fifths are done: of the run's own process, and of all that it began."""


def sample(process, seconds, finished):
    """Memory by kind of process."""
    own, _ = memory(process.pid)
    kinds = {}
    for pid, name in below(process.pid).items():
        kind = name.split()[0].rpartition("/")[2] if name.split() else "?"
        kinds[kind] = kinds.get(kind, 0.0) + memory(pid)[1]
    return {"seconds": seconds, "finished": finished, "driver": own, "kinds": kinds}


def finished_of(segments, known):
    """Pictures that the ledger names, of which ``known`` holds those of files that were read before."""
    for path in segments.glob("[0-9]*.json") if segments.is_dir() else ():
        if path.name not in known:
            shards = json.loads(path.read_text())["shards"]
            known[path.name] = sum(s["written"] + len(s["failures"]) for s in shards)
    return sum(known.values())


def test_memory_is_bounded(tmp_path):
    pictures = write_pictures(tmp_path / "in", FILES)
    names = [p.name for p in sorted(pictures.iterdir())]
    (pictures / "many.csv").write_text(
        "\n".join(["path", *(names[n % FILES] for n in range(COUNT))])
    )
    write_plain_bundle(tmp_path / "depth")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "e2e_deploy", "bulk", str(pictures / "many.csv")]
    command += ["--bundle", str(tmp_path / "depth"), "--out", str(out), "--cores", "1", "--json"]
    samples, known, start = [], {}, time.monotonic()
    with (tmp_path / "said").open("w") as said, (tmp_path / "told").open("w") as told:
        process = subprocess.Popen(command, stdout=told, stderr=said)
        while process.poll() is None:
            finished = finished_of(out / "_bulk" / "ledger", known)
            samples.append(sample(process, time.monotonic() - start, finished))
            (tmp_path / "samples.json").write_text(json.dumps(samples))
            time.sleep(EVERY_S)
    assert process.returncode == 1, (tmp_path / "said").read_text()[-2000:]
    report = json.loads((tmp_path / "told").read_text())
    assert report["finished"] == COUNT
    assert report["failures"] == COUNT // FILES  # one of the ten is damaged
    late = [s for s in samples if s["finished"] >= COUNT / 5]
    everything = [s["driver"] + sum(s["kinds"].values()) for s in late]
    driver = [s["driver"] for s in late]
    print(
        f"driver {driver[0]:.0f} to {max(driver):.0f} MiB, all {everything[0]:.0f} to {max(everything):.0f}"
    )
    assert max(driver) - driver[0] < DRIVER_MIB
    assert max(everything) - everything[0] < ALL_MIB
