"""Videos and logs beside pictures, while workers and then the run are killed; BULK_KILLS=1 runs it (minutes)."""

import os
import signal
import subprocess
import sys
import time

import pytest

import e2e_deploy as e2e
from tests import bags
from tests.plain_bundle import write_plain_bundle
from tests.runtime.bulk.processes import below
from tests.runtime.bulk.serial import DAMAGED, results_of, write_pictures
from tests.runtime.sources.test_video_stretches import OPEN, moving
from tests.videos import write_video

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("BULK_KILLS") != "1", reason="BULK_KILLS=1 runs it"),
]
PICTURES, FRAMES, MESSAGES = 20, 400, 150


def expected(folder, bundle, tmp_path):
    """What ``run`` writes of the pictures, and of what holds many in a folder of its name."""
    e2e.run(folder, bundle, out=tmp_path / "pictures", formats="png16")
    found = results_of(tmp_path / "pictures")
    for name in ("film.mp4", "log.mcap"):
        out = tmp_path / name.partition(".")[0]
        e2e.run(folder / name, bundle, out=out, formats="png16")
        found |= {f"{name}/{file}": data for file, data in results_of(out).items()}
    return found


def test_every_frame_is_there_once_whatever_was_killed(tmp_path):
    folder, out = write_pictures(tmp_path / "in", PICTURES), tmp_path / "out"
    write_video(folder / "film.mp4", moving(FRAMES), options=OPEN)
    bags.write_mcap(folder / "log.mcap", bags.stream(bags.pictures(MESSAGES)), chunk_size=60_000)
    bundle = write_plain_bundle(tmp_path / "depth")
    command = [sys.executable, "-m", "e2e_deploy", "bulk", str(folder), "--out", str(out)]
    command += ["--bundle", str(bundle), "--workers", "2", "--cores", "1", "--shard", "8"]

    def wait_for(process, count):
        while process.poll() is None and len(list(out.rglob("*.png"))) < count:
            time.sleep(0.05)
        assert process.poll() is None

    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(process, 40)
    for pid in [pid for pid, name in below(process.pid).items() if "ray::Map" in name]:
        os.kill(pid, signal.SIGKILL)
    wait_for(process, 200)
    process.kill()
    process.communicate()
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 1, done.stderr
    assert "were done before" in done.stderr
    total = PICTURES + FRAMES + MESSAGES
    assert f"{total} of {total} pictures are done" in done.stderr
    found = results_of(out)
    assert len(found) == 2 * (total - len(DAMAGED))
    assert found == expected(folder, bundle, tmp_path)
