import json

import pytest

from tests.plain_bundle import write_plain_bundle


@pytest.fixture
def bundle(tmp_path):
    return write_plain_bundle(tmp_path / "bundle")


def test_the_engine_alone(cli, bundle):
    code, stdout, stderr = cli("bench", bundle, "--frames", "5")
    assert (code, stderr) == (0, "")
    header, row = stdout.splitlines()
    assert header.split()[:3] == ["frame", "backend", "precision"]
    assert row.split()[:3] == ["24x32", "onnxruntime", "fp32"]


def test_the_loop_as_json(cli, bundle):
    code, stdout, _ = cli(
        "bench", bundle, "--frames", "5", "--loop", "--rate", "20", "--rate", "50",
        "--seconds", "0.2", "--json",
    )  # fmt: skip
    assert code == 0
    report = json.loads(stdout)
    assert set(report["files"]) == {"model_24x32.onnx"}
    assert "numpy" in report["installed"]
    (row,) = report["rows"]
    assert [r["rate_hz"] for r in row["rates"]] == [20.0, 50.0]
    for result in row["rates"]:
        assert result["captured"] == result["frames"] + result["dropped"]
        assert {"p50_ms", "p95_ms", "p99_ms", "max_ms", "jitter_ms"} <= set(result["stages"]["age"])
    assert len(row["memory_mib"]) == 2
    assert "peak" in row


def test_the_loop_for_people(cli, bundle):
    code, stdout, _ = cli(
        "bench", bundle, "--frames", "3", "--loop", "--rate", "20", "--seconds", "0.2"
    )
    assert code == 0
    lines = stdout.splitlines()
    assert [line.split()[1] for line in lines[3:7]] == ["fit", "engine", "finish", "age"]
    assert "results/s, " in lines[7]


def test_against_another_backend(cli, bundle):
    code, stdout, _ = cli("bench", bundle, "--frames", "4", "--against", "onnxruntime", "--json")
    assert code == 0
    other = json.loads(stdout)["rows"][0]["against"]
    assert other["backend"] == "onnxruntime"
    assert other["ours"]["count"] == other["theirs"]["count"] == 4
    assert other["gain"]["ratio"] == pytest.approx(
        other["theirs"]["p50_ms"] / other["ours"]["p50_ms"]
    )
    assert other["gain"]["low"] <= other["gain"]["ratio"] <= other["gain"]["high"]
    code, _, stderr = cli("bench", bundle, "--against", "nobody")
    assert code == 2
    assert "Invalid value for '--against': 'nobody' is not one of 'auto', 'onnxruntime'" in stderr
    for option in (["--rate", "30"], ["--seconds", "1"]):
        code, _, stderr = cli("bench", bundle, *option)
        assert code == 2
        assert "--rate and --seconds need --loop" in stderr


def test_against_diffusers_for_people_and_programs(cli, normals_bundle, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    asked = ("bench", normals_bundle, "--frames", "2", "--against", "diffusers")
    code, stdout, stderr = cli(*asked)
    assert code == 0
    assert [line.split()[0] for line in stderr.splitlines()] == ["load", "compile"]
    _, _, sentence, eager, why, parity = stdout.splitlines()
    assert "as fast as diffusers" in sentence
    assert "ms eager, fp32)" in sentence
    assert eager.startswith("against diffusers (fp32) in the same run: p50 ")
    assert why.startswith("diffusers was not compiled: ")
    assert "no-such-compiler is not here" in why
    assert parity.startswith("results differ from diffusers' by ")
    code, stdout, _ = cli(*asked, "--json", "--checkpoint", "bundled:e2e-tiny-normals")
    assert (code, stdout) == (5, "")
    code, stdout, _ = cli(*asked, "--json")
    (row,) = json.loads(stdout)["rows"]
    assert row["diffusers"]["eager"]["gain"]["ratio"] > 0
    assert row["diffusers"]["sentence"].endswith(row["diffusers"]["eager"]["device"])
    assert "against" not in row
