"""``run`` on a GPU, with doubles: what crosses to it and back is said; decoding there is asked for."""

import json

import pytest

from e2e_deploy.nvidia.hardware import cuda_device_count
from tests import fake_gpu
from tests.cli.test_run import clip, one_sentence
from tests.plain_bundle import HW
from tests.runtime.fake_plans import add_plan

COUNT = 6


def test_the_summary_and_json_say_bytes_a_frame(cli, bundle, tmp_path, monkeypatch):
    add_plan(bundle)
    fake_gpu.install(monkeypatch, tmp_path / "cache")
    source, out = clip(tmp_path / "in.mp4", COUNT), tmp_path / "out"
    given = ["run", source, "--bundle", bundle, "--out", out, "--backend", "tensorrt"]
    code, stdout, stderr = cli(*given, "--json")
    assert code == 0, stderr
    told = json.loads(stdout)
    assert told["frames"] == COUNT
    assert told["transfers_per_frame"] == {
        "upload": {"calls": 1.0, "bytes": HW[0] * HW[1] * 3},
        "download": {"calls": 1.0, "bytes": HW[0] * HW[1] * 4},
        "on_gpu": {"calls": 0.0, "bytes": 0.0},
    }
    assert "between host and GPU, a frame: upload 0.00 MB in 1.0 copies, download" in stderr


def test_without_a_gpu_nothing_is_claimed(cli, bundle, tmp_path):
    source, out = clip(tmp_path / "in.mp4", 2), tmp_path / "out"
    code, stdout, stderr = cli("run", source, "--bundle", bundle, "--out", out, "--json")
    assert code == 0
    assert json.loads(stdout)["transfers_per_frame"] is None
    assert "between host and GPU" not in stderr


def test_decoding_on_the_gpu_is_for_video_files(cli, bundle, picture):
    code, _, stderr = cli("run", picture[0], "--bundle", bundle, "--decode", "gpu")
    assert code == 2
    assert "--decode gpu is for video files" in one_sentence(stderr)


@pytest.mark.skipif(cuda_device_count() > 0, reason="there is a GPU")
def test_decoding_on_a_gpu_that_is_not_here(cli, bundle, tmp_path):
    source = clip(tmp_path / "in.mp4", 2)
    code, _, stderr = cli("run", source, "--bundle", bundle, "--decode", "gpu")
    assert code == 4
    assert "e2e-deploy[video-gpu]" in one_sentence(stderr) or "no NVIDIA GPU" in stderr
