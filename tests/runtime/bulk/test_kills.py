"""What is killed goes on: workers, the whole run, Ctrl-C, with 400 pictures and Ray; BULK_KILLS=1 runs it (minutes)."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import e2e_deploy as e2e
from e2e_deploy.errors import E2EDeployError
from e2e_deploy.runtime.bulk import bulk as bulk_module
from tests.plain_bundle import write_plain_bundle
from tests.runtime.bulk.deadly import deadly_decoder, make_deadly
from tests.runtime.bulk.processes import below
from tests.runtime.bulk.serial import DAMAGED, results_of, write_pictures

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("BULK_KILLS") != "1", reason="BULK_KILLS=1 runs it"),
]
COUNT, AFTER = 400, 40
LISTENS = "0A"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("inputs")
    write_pictures(root / "in", COUNT, sizes=((240, 320),))
    write_plain_bundle(root / "depth", sizes=((240, 320),))
    e2e.run(root / "in", root / "depth", out=root / "ref", formats="png16")
    return root


def start(inputs, out):
    command = [sys.executable, "-m", "e2e_deploy", "bulk", str(inputs / "in"), "--out", str(out)]
    command += ["--bundle", str(inputs / "depth"), "--workers", "2", "--cores", "1", "--shard", "4"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process, out):
    while process.poll() is None and len(list(out.glob("*.png"))) < AFTER:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()


def listening(pids):
    """Addresses that processes listen at, as /proc/net writes them."""
    links = [
        os.readlink(fd)
        for pid in pids
        for fd in Path(f"/proc/{pid}/fd").glob("*")
        if fd.is_symlink()
    ]
    nodes = {link[8:-1] for link in links if link.startswith("socket:[")}
    lines = [
        line.split()
        for kind in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{kind}").read_text().splitlines()
    ]
    return {words[1].split(":")[0] for words in lines if words[3] == LISTENS and words[9] in nodes}


def works(pid):
    """Whether a process is there and not only waits for its parent to see its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def left_of(began):
    """Those of the processes that still work after a while, in which Ray's helpers look for what has gone."""
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline and any(map(works, began)):
        time.sleep(0.2)
    return {pid: name for pid, name in began.items() if works(pid)}


def check_whole(inputs, out):
    assert results_of(out) == results_of(inputs / "ref")
    report = json.loads((out / "_bulk" / "report.json").read_text())
    assert (report["finished"], report["failures"]) == (COUNT, len(DAMAGED))


def test_workers_that_are_killed_are_begun_again(inputs, tmp_path):
    process = start(inputs, tmp_path / "out")
    wait_for(process, tmp_path / "out")
    killed = [pid for pid, name in below(process.pid).items() if "ray::Map" in name]
    assert killed
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 1, stderr
    assert stdout.splitlines() == [str(tmp_path / "out" / "_bulk" / "report.json")]
    check_whole(inputs, tmp_path / "out")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_goes_on_and_leaves_no_process(inputs, tmp_path, number):
    process = start(inputs, tmp_path / "out")
    wait_for(process, tmp_path / "out")
    began = below(process.pid)
    local = {"0100007F", "0000000000000000FFFF00000100007F"}
    if socket.has_ipv6:
        local.add("00000000000000000000000001000000")
    assert listening(began) <= local, "only this machine reaches Ray"
    process.send_signal(number)
    process.communicate(timeout=120)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130)
    assert not left_of(began)
    again = start(inputs, tmp_path / "out")
    _, stderr = again.communicate(timeout=300)
    assert again.returncode == 1, stderr
    assert "were done before" in stderr
    check_whole(inputs, tmp_path / "out")


def test_what_kills_its_worker_each_time_ends_the_run_in_a_sentence(inputs, tmp_path, monkeypatch):
    tries = tmp_path / "tries"

    def deadly(table, tries_first):
        with tries.open("a") as stream:
            stream.write("x")
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(bulk_module, "read_shards", deadly)
    (tmp_path / "l.csv").write_text(f"path\n{inputs / 'in' / 'p000.png'}\n")
    with pytest.raises(E2EDeployError) as caught:
        e2e.bulk(tmp_path / "l.csv", inputs / "depth", tmp_path / "out", workers=1, cores=1)
    said = str(caught.value)
    print(said)
    assert "0 of 1 pictures are done" in said
    assert "\n" not in said
    assert tries.read_text() == "x" * 2 * (1 + bulk_module.RETRIES)


def test_pictures_that_end_their_decoder_are_failures(inputs, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(deadly_decoder(tmp_path / "site")))
    make_deadly(inputs / "in" / "p017.png", tmp_path / "in" / "p017.png")
    for name in ("p016.png", "p018.png", "p020.png"):
        shutil.copy(inputs / "in" / name, tmp_path / "in" / name)
    report = e2e.bulk(
        tmp_path / "in", inputs / "depth", tmp_path / "out", workers=1, cores=1, shard=2
    )
    assert [(f.path, f.reason) for f in report.failures] == [
        (str(tmp_path / "in" / "p017.png"), "its decoder ended the process (SIGABRT)")
    ]
    assert bulk_module.DIED in report.notes
    for name in ("p016", "p018", "p020"):
        found, wanted = (
            folder / f"{name}_depth.png" for folder in (tmp_path / "out", inputs / "ref")
        )
        assert found.read_bytes() == wanted.read_bytes()
