import json

import cv2
import numpy as np
import pytest

from e2e_deploy.bundle import open_bundle
from tests import fake_gpu
from tests.plain_bundle import HW, rehash, write_plain_bundle
from tests.runtime.fake_engines import VERSION, add_engine


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    return fake_gpu.install(monkeypatch, tmp_path / "cache")


@pytest.fixture
def stale(tmp_path):
    """A bundle whose engine another version built."""
    root = write_plain_bundle(tmp_path / "bundle")
    add_engine(root, version="10.13.2")
    return root


@pytest.mark.parametrize("verb", ["verify", "bench", "run"])
@pytest.mark.parametrize("backend", ["auto", "tensorrt"])
def test_an_engine_that_does_not_fit_is_built_again(cli, gpu, stale, tmp_path, verb, backend):
    arguments = {"verify": [stale], "bench": [stale, "--frames", "1"]}
    if verb == "run":
        cv2.imwrite(str(tmp_path / "a.png"), np.zeros((*HW, 3), np.uint8))
        arguments["run"] = [tmp_path / "a.png", "--bundle", stale, "--out", tmp_path / "out"]
    given = [*arguments[verb], "--backend", backend]
    if backend != "auto":
        code, _, stderr = cli(verb, *given)
        assert code == 4
        assert f"e2e-deploy verify {stale} --backend tensorrt --rebuild" in stderr
    code, stdout, stderr = cli(verb, *given, "--rebuild")
    assert code == 0, stderr
    assert "rebuild TensorRT engine 24x32 sm89" in stderr
    assert "tensorrt" in stdout + stderr
    (entry,) = open_bundle(stale).manifest.engines
    assert entry.version == VERSION
    code, _, stderr = cli(verb, *given, "--rebuild")
    assert code == 0
    assert "rebuild TensorRT" not in stderr


def test_what_the_message_says_works(cli, gpu, stale):
    _, _, stderr = cli("verify", stale, "--backend", "tensorrt")
    command = stderr.strip().rpartition("e2e-deploy ")[2]
    code, stdout, _ = cli(*command.split())
    assert code == 0
    assert "tensorrt (NVIDIA Fake 4090" in stdout


def test_a_named_library_gets_its_first_engine(cli, gpu, tmp_path):
    root = write_plain_bundle(tmp_path / "bundle", sizes=[HW, (48, 64)])
    code, _, stderr = cli("verify", root, "--rebuild")
    assert "rebuild TensorRT" not in stderr  # auto: the bundle has none
    code, stdout, _ = cli("verify", root, "--backend", "tensorrt", "--rebuild", "--json")
    assert code == 0
    assert [row["backend"] for row in json.loads(stdout)] == ["tensorrt"] * 2
    assert len(open_bundle(root).manifest.engines) == 2


def test_a_damaged_engine_is_built_again(cli, gpu, tmp_path):
    root = write_plain_bundle(tmp_path / "bundle")
    engine = add_engine(root)
    engine.write_bytes(engine.read_bytes()[:-20])
    rehash(root, engine.relative_to(root).as_posix())
    assert cli("verify", root, "--backend", "tensorrt")[0] == 5
    assert cli("verify", root, "--backend", "tensorrt", "--rebuild")[0] == 0


def test_what_others_could_have_written_is_not(cli, gpu, tmp_path):
    root = write_plain_bundle(tmp_path / "bundle")
    add_engine(root).chmod(0o666)
    code, _, stderr = cli("verify", root, "--backend", "tensorrt", "--rebuild")
    assert code == 5
    assert "can be written by other users" in stderr


def test_without_a_gpu_it_is_said(cli, stale, monkeypatch):
    monkeypatch.setattr("e2e_deploy.runtime.cuda_driver.cuda_device_count", lambda: 0)
    code, _, stderr = cli("verify", stale, "--device", "cpu", "--rebuild")
    assert code == 0
    assert "tensorrt: not rebuilt: " in stderr
    assert cli("verify", stale, "--backend", "tensorrt", "--rebuild")[0] == 4


def test_a_backend_without_engines_is_wrong_usage(cli, stale):
    code, _, stderr = cli("verify", stale, "--backend", "onnxruntime", "--rebuild")
    assert code == 2
    assert "--rebuild is for tensorrt and tensorrt-rtx; onnxruntime has no engines" in stderr
