"""The whole acceptance run as a user starts it, at its smallest; then what its files say."""

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from shutil import copytree

import pytest
import torch

from benchmarks.gpu import acceptance
from benchmarks.gpu.contenders.of_bundles import (
    COMPILING_S,
    PREPARED_S,
    bundle_root,
    compiling_s,
    make_bundle,
)
from benchmarks.gpu.parity import RANDOM_WEIGHTS
from benchmarks.gpu.speed import SMALL_HW
from benchmarks.gpu.timing import find_device
from benchmarks.report import RESULTS
from e2e_deploy.assets import READY_BUNDLE
from e2e_deploy.bundle.bundle import open_bundle, sha256_of
from e2e_deploy.bundle.manifest import FileEntry, PlanEntry
from e2e_deploy.export.engines.build import job_for
from e2e_deploy.limits import LIMITS, Parity
from e2e_deploy.names import PLAN_KINDS
from e2e_deploy.nvidia.cuda_driver import current_gpu

ROOT = Path(__file__).parents[2]
ON = "cuda" if torch.cuda.is_available() else "cpu"
PARTS = ("report", "tests", "parity", "speed_64x96_batch1", "loop", "training")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Every result file of ``--small``, by part."""
    out = tmp_path_factory.mktemp("results")
    words = ["-m", "benchmarks.gpu.acceptance", "--small", "--out", out, "--work", out / "work"]
    done = subprocess.run(
        [sys.executable, *map(str, words), "--commit", "0123abcd"],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    files = {path.stem.removeprefix("gpu_"): path for path in out.glob("*.json")}
    return {name: json.loads(path.read_text()) for name, path in files.items()}


def numbers(value):
    """Every number in a result."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from numbers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner)
    elif isinstance(value, int | float):
        yield value


def test_every_part_wrote_what_ran_where(results):
    assert set(results) == set(PARTS)
    for result in results.values():
        assert "error" not in result
        assert result["small"] is True
        assert result["device"]["type"] == ON
        assert result["commit"] == "0123abcd"
        assert result["command"].startswith("python -m benchmarks.gpu.acceptance --small --out DIR")
        assert result["versions"]["torch"] == torch.__version__
        assert all(math.isfinite(number) for number in numbers(result))


def test_every_contender_is_measured_or_says_why_not(results):
    rows = results["speed_64x96_batch1"]["contenders"]
    assert {"diffusers_eager", "plain", "specialised", "onnxruntime_bound", "tensorrt"} <= set(rows)
    for name, row in rows.items():
        assert ("latency" in row) != bool(row.get("not_run") or row.get("error")), name
    needs_cuda = {
        name
        for name in rows
        if name.endswith(("_graph", "compiled", "_bound", "_from_host", "rtx"))
    }
    needs_cuda |= {"tensorrt"}
    if ON == "cpu":
        assert {name for name, row in rows.items() if "not_run" in row} == needs_cuda
        assert not any("gib" in name for row in rows.values() for name in row)


def test_ratios_and_shares_follow_from_the_medians(results):
    result = results["speed_64x96_batch1"]
    rows = {name: row for name, row in result["contenders"].items() if "latency" in row}
    base = rows["diffusers_eager"]["latency"]["p50_ms"]
    for row in rows.values():
        median, work = row["latency"]["p50_ms"], result["work"][row["work"]]["all"]
        assert row["latency"]["count"] == result["rounds"]
        assert row["times_as_fast_as_diffusers"] == pytest.approx(base / median)
        assert row["share_of_roofline"] == pytest.approx(work["floor_ms"] / median)
        assert row["share_of_matrix_rate"] == pytest.approx(work["arithmetic_ms"] / median)
        assert row["frames_per_second"] == pytest.approx(1000 * result["batch"] / median)
    assert set(rows["plain"]["split_ms"]) == {"encoder", "unet", "decoder"}


def test_the_work_adds_up_and_specialising_removes_some(results):
    result = results["speed_64x96_batch1"]
    work, rate = result["work"], result["roof"]["matrix_tflops"]
    for stages in work.values():
        for key in ("tflop", "gbytes", "arithmetic_ms", "floor_ms"):
            parts = sum(stages[stage][key] for stage in ("encoder", "unet", "decoder"))
            assert stages["all"][key] == pytest.approx(parts)
        assert stages["all"]["arithmetic_ms"] == pytest.approx(1000 * stages["all"]["tflop"] / rate)
        assert stages["all"]["floor_ms"] >= stages["all"]["arithmetic_ms"]
    totals = [work[k]["all"]["tflop"] for k in ("plain", "not_upsampled", "specialised")]
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == 3


@pytest.mark.skipif(ON == "cuda", reason="in fp16 the contenders differ by more")
def test_contenders_compute_the_same(results):
    for name, row in results["speed_64x96_batch1"]["contenders"].items():
        if "parity" in row:
            assert row["parity"]["relative"] < 1e-5, name


def test_parity_is_judged_by_precision(results):
    result = results["parity"]
    rows = [row for row in result["rows"] if "parity" in row]
    assert result["measured"] == len(rows) >= 13  # two tasks, plain and specialised, three types
    assert result["passed"] == sum(row["passed"] for row in rows) == len(rows)
    assert result["worst_relative_fp32"] < 1e-4
    worst = {
        precision: max(row["parity"]["relative"] for row in rows if row["precision"] == precision)
        for precision in ("fp32", "fp16", "bf16")
    }
    assert worst["fp32"] < worst["fp16"] < worst["bf16"]


def test_random_weights_are_held_to_what_rounding_makes_of_them():
    """An H200's own results are inside; those of a type with fewer bits, which is what a wrong type looks like, not."""
    rows = json.loads((RESULTS / "gpu_parity.json").read_text())["rows"]
    found = {
        (row["precision"], row["specialised"]): Parity(**row["parity"])
        for row in rows
        if "random" in row["model"]
    }
    assert len(found) == 6
    for (precision, _), parity in found.items():
        assert parity.breaks(RANDOM_WEIGHTS["torch", precision]) == []
    assert len(found["bf16", True].breaks(RANDOM_WEIGHTS["torch", "fp16"])) == 2
    assert RANDOM_WEIGHTS["torch", "fp32"] == LIMITS["torch", "fp32"]


def test_the_loop_runs_every_engine_that_is_here(results):
    result = results["loop"]
    ran = {name: row for name, row in result["engines"].items() if "stages" in row}
    assert {"torch", "torch_in_memory"} <= set(ran)
    height, width = result["frame_size"]
    for row in ran.values():
        assert row["frames"] == result["clip_frames"]
        assert row["stages"]["engine"]["count"] == row["frames"]
        assert row["frames_per_second"] > 0
        assert (row["bytes_to_device"], row["bytes_to_host"]) == (
            3 * height * width,
            4 * height * width,
        )
    assert 0 <= ran["torch_in_memory"]["device_idle_share"] < 1
    if ON == "cpu":
        left_out = {n for n, row in result["engines"].items() if "not_run" in row}
        assert left_out - {"openvino"} == {
            f"{plan}{decoded}" for plan in PLAN_KINDS for decoded in ("", "_gpu_decoded")
        }


def test_training_steps_are_real(results):
    result = results["training"]
    for row in result["precisions"].values():
        assert row["skipped_steps"] == 0
        assert len(set(row["losses"])) == len(row["losses"]) == result["steps"] + 1
        rate = result["effective_batch"] / row["seconds_per_step"]
        assert row["images_per_second"] == pytest.approx(rate)
        assert ("peak_gib" in row) == (ON == "cuda")


def test_gpu_tests_are_counted(results):
    result = results["tests"]
    kinds = ("passed", "failed", "not_run")
    assert sum(len(result[kind]) for kind in kinds) >= 1
    assert result["require_gpu"] is (ON == "cuda")
    if ON == "cpu":
        assert result["passed"] == result["failed"] == []
        assert all("no CUDA device" in test["why"] for test in result["not_run"])


def test_the_files_with_gpu_tests_are_found_and_no_others(monkeypatch):
    names = {Path(file).name for file in acceptance.gpu_tests()}
    assert {"test_cuda_driver.py", "test_engine.py", "test_transfers.py"} <= names
    assert not {Path(__file__).name, "test_render.py"} & names


def test_what_was_prepared_is_found(tmp_path):
    words = ["-m", "benchmarks.gpu.prepare", "--small", "--what", "full", "loop"]
    subprocess.run([sys.executable, *words, "--work", str(tmp_path)], cwd=ROOT, check=True)
    for precision in {find_device().precision, "fp32"}:
        root = bundle_root(tmp_path, SMALL_HW, precision, small=True)
        made = (root / "manifest.json").stat().st_mtime_ns
        bundle = make_bundle(tmp_path, SMALL_HW, precision=precision, small=True)
        assert (bundle.root, (root / "manifest.json").stat().st_mtime_ns) == (root, made)
        assert bundle.manifest.resolution == 0


def test_what_is_prepared_takes_less(tmp_path):
    root = bundle_root(tmp_path, SMALL_HW, "fp16", small=True)
    assert compiling_s(root) == COMPILING_S
    copytree(READY_BUNDLE, root)
    assert compiling_s(root) == COMPILING_S
    manifest = open_bundle(root).manifest
    job, _ = job_for("inductor", current_gpu())
    plan = PlanEntry(
        file="plans/p.plan",
        backend="inductor",
        version=job.version,
        target=job.target,
        gpu="",
        cuda=0,
        frame_size=manifest.graphs[0].frame_size,
        precision="fp32",
        options={},
        seconds=1.0,
        layers={},
    )
    (root / "plans").mkdir()
    (root / plan.file).write_bytes(b"p")
    files = manifest.files | {plan.file: FileEntry(bytes=1, sha256=sha256_of(root / plan.file))}
    held = replace(manifest, plans=[plan], files=dict(sorted(files.items())))
    (root / "manifest.json").write_text(json.dumps(asdict(held)))
    assert compiling_s(root) == PREPARED_S
    elsewhere = replace(held, plans=[replace(plan, target="sm1")])
    (root / "manifest.json").write_text(json.dumps(asdict(elsewhere)))
    assert compiling_s(root) == COMPILING_S
