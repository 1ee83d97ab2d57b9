"""How the package is compared; its compiler takes minutes, so a stand-in is loaded in its place."""

import argparse
import json
import time

import numpy as np
import pytest
import torch

from benchmarks.gpu import package, package_process
from benchmarks.gpu.profiling.job import Job
from benchmarks.gpu.timing import Device

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is asked for real")


@pytest.fixture
def job(tmp_path):
    """A small job that keeps what it wrote."""
    written = {}

    def write(name, result):
        written[name] = json.loads(json.dumps(result))

    made = Job(Device("cpu"), True, tmp_path, time.monotonic() + 600, write)
    made.written = written
    return made


def brightness(frame_1HW3, **more):
    """What stands in for the model: float32 [1, H, W]."""
    return frame_1HW3.float().mean(-1) / 255


@pytest.fixture
def built(job, monkeypatch):
    """A package was built by an earlier call."""
    folder = job.work / "package-tiny"
    folder.mkdir()
    (folder / "facts.json").write_text('{"export_s": 1.0, "compile_s": 2.0, "package_mib": 3.0}')
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda file, **more: brightness)
    monkeypatch.setattr(
        package,
        "reference_of",
        lambda job, frames: np.concatenate([brightness(f).numpy() for f in frames[:2]]),
    )


def given(**more):
    facts = {"options": {}, "keep": True, "only": "package", "profile": False}
    return argparse.Namespace(**facts | more)


def test_a_package_is_compared_and_timed(job, built, monkeypatch):
    lived = {"load_s": 1.0, "took_gib": 0.0}
    monkeypatch.setattr(package_process, "load_elsewhere", lambda file, **more: lived)
    lines = package.run(job, given())
    rows = job.written["gpu_package"]["rows"]
    assert list(rows) == ["package", "package_single_threaded"]
    for row in rows.values():
        assert row["parity"]["relative"] < 1e-5
        assert row["device_to_device"]["count"] == row["host_to_host"]["count"] == 3
    assert len(lines) == 3


def test_one_that_crashes_in_its_own_process_is_not_loaded_here(job, built, monkeypatch):
    def died(file, **more):
        return {"error": "exit status -11: "}

    monkeypatch.setattr(package_process, "load_elsewhere", died)
    package.run(job, given())
    result = job.written["gpu_package"]
    assert result["rows"] == {}
    assert result["fresh_process"] == {"error": "exit status -11: "}


def test_a_building_process_that_fails_is_told_in_its_words(job, monkeypatch):
    monkeypatch.setattr(
        package_process,
        "_words",
        lambda *what, **more: [package_process.sys.executable, "-c", "raise SystemExit('no g++')"],
    )
    building = package_process.Building(job.work, {}, small=True, keep=False)
    assert building.finish(30) == {"error": "no g++"}
