"""The page's tables: numbers of a GPU and nothing else."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import readme
from benchmarks.gpu import tables
from benchmarks.gpu.profiling import tables as profiling_tables

ROOT = Path(__file__).parents[2]


@pytest.fixture
def write(tmp_path):
    """Write a result file as the script does; returns the folder."""

    def write(name, content, *, device="cuda", small=False):
        facts = {
            "small": small,
            "device": {"type": device, "name": "GPU X", "driver_version": "580.1", "cuda": "13.0"},
            "versions": {"torch": "2.11.0"},
            "commit": "0123abcd",
            "date": "2026-11-22T12:00:00+00:00",
            "command": "python -m benchmarks.gpu.acceptance --out DIR",
        }
        (tmp_path / f"gpu_{name}.json").write_text(json.dumps(facts | content))
        return tmp_path

    return write


def row(median, **more):
    return {
        "latency": {"p50_ms": median, "p99_ms": 2 * median},
        "share_of_roofline": 10 / median,
        "share_of_matrix_rate": 8 / median,
        "parity": {"abs_rel": 0.0012},
        **more,
    }


SPEED = {
    "frame_size": [576, 768],
    "batch": 1,
    "precision": "fp16",
    "rounds": 40,
    "roof": {"matrix_tflops": 790.0, "copy_gb_s": 3000.0},
    "work": {"plain": {"all": {"tflop": 7.704, "arithmetic_ms": 9.75, "floor_ms": 12.8}}},
    "contenders": {
        "diffusers_eager": row(60.0, times_as_fast_as_diffusers=1.0),
        "specialised_graph": row(
            20.0,
            times_as_fast_as_diffusers=3.0,
            split_ms={"encoder": 5.0, "unet": 4.0, "decoder": 11.0},
            weights_gib=1.75,
            activations_gib=2.0,
        ),
        "tensorrt": {"not_run": "no package"},
        "plain": {"error": "OutOfMemoryError: 1 GiB"},
    },
}


def test_without_results_nothing_was_measured(tmp_path):
    blocks = [*tables.BLOCKS.values(), *profiling_tables.BLOCKS.values()]
    assert {block(tmp_path) for block in blocks} == {"Not measured."}


@pytest.mark.parametrize("facts", [{"device": "cpu"}, {"small": True}])
def test_trials_are_no_numbers(write, facts):
    assert tables.speed(write("speed_576x768_batch1", SPEED, **facts)) == "Not measured."


def test_speed_is_sorted_and_says_what_is_missing(write):
    text = tables.speed(write("speed_576x768_batch1", SPEED))
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert lines[1:] == [
        "| specialised graph | 20.00 (40.00) | 3.00x | 50 % | 40 % | 5.00 / 4.00 / 11.00 | 3.8 | 1.2e-03 |",
        "| diffusers eager | 60.00 (120.00) | 1.00x | 17 % | 13 % |  |  | 1.2e-03 |",
    ]
    assert "tensorrt (no package); plain (OutOfMemoryError: 1 GiB)" in text
    assert "7.70 TFLOP" in text
    assert "GPU X, driver 580.1, CUDA 13.0, torch 2.11.0, commit 0123abcd, 2026-11-22" in text


def test_a_part_that_broke_says_so(write):
    folder = write("training", {"error": "RuntimeError: gone"})
    assert tables.training(folder).startswith("The part broke: RuntimeError: gone\n")


def test_parity_shows_verdicts_and_reasons(write):
    facts = {"model": "m", "task": "depth", "precision": "fp16", "specialised": True}
    good = {"relative": 1e-3, "abs_rel": 2e-3, "mean_angle_deg": None}
    rows = [
        facts | {"backend": "torch", "parity": good, "passed": True, "outside": []},
        facts | {"backend": "tensorrt", "not_run": "no package"},
    ]
    text = tables.parity(write("parity", {"rows": rows, "passed": 1, "measured": 1}))
    assert "| m | depth | torch | fp16 | specialised | 1.0e-03 | 2.0e-03 | inside |" in text
    assert "| m | depth | tensorrt | fp16 | specialised |  |  | no package |" in text


def test_loop_training_and_device(write):
    stage = {"p50_ms": 12.0, "p99_ms": 15.0}
    engine = {
        "model": "SD2",
        "stages": {"engine": stage, "age": stage},
        "frames_per_second": 31.4,
        "device_idle_share": 0.25,
        "grown_after_warm_up": {"gpu_reserved_mib": 0.0},
    }
    content = {"frame_size": [1080, 1920], "clip_frames": 300}
    folder = write("loop", content | {"engines": {"torch_in_memory": engine}})
    assert (
        "| torch in memory | SD2 | 31.4 | 12.0 (15.0) | 12.0 (15.0) | 25 % | 0.0 |"
        in tables.loop(folder)
    )
    content = {"size_hw": [480, 640], "batch": 1, "effective_batch": 32, "trained": "unet"}
    content["precisions"] = {
        "fp32": {"images_per_second": 2.5, "peak_gib": 31.0},
        "bf16": {"not_run": "no"},
    }
    text = tables.training(write("training", content))
    assert "| fp32 | 2.50 | 31.0 |" in text
    assert "bf16 (no)" in text
    content = {"matrix_tflops": {"fp16": 790.2}, "copy_gb_s": 3001.0}
    write("tests", {"passed": [{}, {}], "failed": [], "not_run": [{}]})
    text = tables.device(write("report", content | {"transfer_gb_s": {"to_device": 25.0}}))
    assert "| matrix product, fp16 | 790 TFLOP/s |" in text
    assert "2 passed, 0 failed, 1 not run" in text


PROFILE = {
    "wall_ms": 10.0,
    "kernels_ms": 8.0,
    "kernels_a_call": 3.0,
    "by_kind_ms": {"convolution": 7.96, "copy": 0.04},
    "top": [
        {"name": "k" * 200, "kind": "convolution", "ms": 7.0, "calls": 2.0, "share": 0.875},
    ],
}


def test_variants_are_sorted_and_what_is_by_hand_stands_beside_them(write):
    measured = {"parity": {"abs_rel": 1e-3}, "device_used_gib": 3.8, "first_runs_s": 5.0}
    variants = {
        "as exported, tf32": measured | {"latency": {"p50_ms": 84.0}, "profile": PROFILE},
        "as exported": measured | {"latency": {"p50_ms": 818.0}},
        "reduced norms": {"not_run": "2 s are left"},
    }
    content = {"variants": variants, "added_by_hand": "a list"}
    text = profiling_tables.onnx_runtime(write("profile_onnxruntime_x", content))
    lines = [line for line in text.splitlines() if line.startswith("| as exported")]
    assert lines[:2] == [
        "| as exported | 818.0 | 1.0e-03 | 3.8 | 5.0 |",
        "| as exported, tf32 | 84.0 | 1.0e-03 | 3.8 | 5.0 |",
    ]
    assert f"| `{'k' * 72}` | convolution | 2 | 7.00 | 88 % |" in lines[2]
    assert "Not measured here: reduced norms (2 s are left)." in text
    assert text.count("; added by hand: a list") == 1
    assert "| copy |" not in text  # less than is shown


def test_the_backend_stands_below_the_variants(write):
    ways = {
        "as it is": {
            "host_to_host": {"p50_ms": 35.04},
            "device_to_device": {"p50_ms": 36.0},
            "two_on_their_way_ms": 34.5,
            "parity": {"abs_rel": 7.4e-4},
            "runs_on": "a GPU, one CUDA graph",
        },
        "fused bias": {"error": "CUDNN_STATUS"},
    }
    text = profiling_tables.onnx_runtime(write("profile_backend_onnxruntime", {"ways": ways}))
    assert "| as it is | 35.0 | 34.5 | 36.0 | 7.4e-04 | a GPU, one CUDA graph |" in text
    assert "Not measured here: fused bias (CUDNN_STATUS)." in text


def test_stages_and_the_package(write):
    folder = write("profile_torch", {"stages": {"encoder": PROFILE, "unet": PROFILE}})
    assert "| convolution | 8.0 | 8.0 |" in profiling_tables.stages(folder)
    content = {
        "package": {"export_s": 4.4, "compile_s": 238.4, "package_mib": 1730.4},
        "fresh_process": {"error": "exit status -11"},
        "rows": {"diffusers_eager": {"prepare_s": 1.0}},
    }
    text = profiling_tables.package(write("package", content))
    assert "| size of the file | 1730 MiB |" in text
    assert "| loaded in a process of its own | exit status -11 |" in text
    assert "Nothing was timed." in text
    content["rows"] = {"package_graph": row(1.0, host_to_host={"p50_ms": 31.0})}
    text = profiling_tables.package(write("package", content))
    assert "| package graph |  | 31.00 | 1.2e-03 |" in text


def test_the_page_is_what_the_results_say():
    page = (ROOT / "docs" / "performance.md").read_text()
    blocks = readme.PAGES["docs/performance.md"]
    of_gpus = set(tables.BLOCKS) | set(profiling_tables.BLOCKS)
    assert set(blocks) == of_gpus | {"cpu-backends"}
    assert all(page.count(f"<!-- begin {name} -->") == 1 for name in blocks)
    assert readme.fill(page, blocks) == page


def test_every_result_is_of_a_clean_commit():
    """Numbers of files that no commit holds cannot be repeated."""
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        result = json.loads(path.read_text())
        assert re.fullmatch("[0-9a-f]{7,40}", result["commit"]), path.name
        assert result["command"].startswith("python "), path.name


def test_backends_of_a_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    assert readme.cpu_backends() == "Not measured."

    def backend(ms, ratio, failures=()):
        return {
            "latency": {"p50_ms": ms},
            "gain": {"ratio": ratio, "low": ratio - 0.1, "high": ratio + 0.1},
            "parity": {"relative": 1e-6, "abs_rel": 2e-6},
            "failures": list(failures),
        }

    result = {
        "size": [480, 640],
        "rounds": 15,
        "rows": {
            "diffusers fp32": backend(400, 1.0),
            "onnxruntime fp32": backend(200, 2.0),
            "openvino fp32": backend(210, 1.9),
            "openvino bf16": backend(80, 5.0, ["AbsRel 0.03 is not below 0.02"]),
        },
        "not_run": {"onnxruntime bf16": "no kernels; export fp32"},
        "commit": "0123abcd",
        "date": "2026-11-22T12:00:00+00:00",
        "command": "python -m benchmarks.speed.cpu_backends",
        "machine": {"cpu": "A CPU", "cores": 4},
    }
    (tmp_path / "cpu_backends.json").write_text(json.dumps(result))
    lines = readme.cpu_backends().splitlines()
    assert lines[2].startswith("| openvino bf16 | 80 | **5.00x** (4.90 to 5.10) |")
    assert lines[2].endswith("AbsRel 0.03 is not below 0.02 |")
    assert lines[5] == "| diffusers fp32 | 400 |  | 1.0e-06 | 2.0e-06 |  |"
    assert lines[6].startswith("| onnxruntime bf16 | not run: no kernels |")
    row = next(line for line in readme.numbers().splitlines() if "fastest backends" in line)
    assert "onnxruntime fp32 200 ms (**2.0x** (1.9 to 2.1)), openvino bf16 80 ms (**5.0x**" in row


def test_every_script_that_the_pages_name_is_there():
    for page in readme.PAGES:
        for name in re.findall(
            r"`(benchmarks[/.][\w/.]+)", (ROOT / page).read_text(encoding="utf-8")
        ):
            script = name.removesuffix(".py").replace(".", "/")
            places = (f"{script}.py", f"{script}.json", script)
            assert any((ROOT / place).exists() for place in places), f"{page} names {name}"
