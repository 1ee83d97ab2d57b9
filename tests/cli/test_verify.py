import json
import re

import pytest

from e2e_deploy.names import BACKENDS
from tests.plain_bundle import NOTE, edit_manifest, write_plain_bundle
from tests.runtime.checks.test_verify import change_reference


@pytest.fixture
def bundle(tmp_path):
    return write_plain_bundle(tmp_path / "bundle")


@pytest.fixture
def broken(bundle):
    change_reference(bundle, lambda results: results[1].__imul__(1.01))
    return bundle


def test_a_table_with_one_row_a_backend_and_size(cli, tmp_path):
    bundle = write_plain_bundle(tmp_path / "b", sizes=[(24, 32), (20, 20)])
    code, stdout, stderr = cli("verify", bundle)
    header, *rows = stdout.splitlines()
    assert code == 0
    assert header.split() == [
        "frame", "backend", "precision", "AbsRel", "angle", "max", "error", "limit"
    ]  # fmt: skip
    compared = [tuple(row.split()[:2]) for row in rows]
    for size in ("24x32", "20x20"):
        assert (size, "onnxruntime") in compared
    for row in rows:
        assert "rel < 0.0001" in row
        assert row.endswith("pass")
    named = {name for _, name in compared}
    left_out = {line.partition(":")[0] for line in stderr.splitlines() if "not compared" in line}
    assert named | left_out == set(BACKENDS)
    assert not named & left_out
    assert "the checkpoint plain, which is no folder here" in stderr
    assert f"note: {NOTE}" in stderr


def test_of_several_outputs_each_has_a_row(cli, tmp_path):
    root = write_plain_bundle(tmp_path / "b", task="geometry")
    change_reference(root, lambda results: results.__imul__(1.001), "normals")
    code, stdout, stderr = cli("verify", root, "--backend", "onnxruntime")
    header, depth, normals = stdout.splitlines()
    assert code == 3
    assert header.split()[:3] == ["frame", "output", "backend"]
    assert (depth.split()[1], depth.split()[-1]) == ("depth", "pass")
    assert (normals.split()[1], normals.split()[-1]) == ("normals", "FAIL")
    assert "error: onnxruntime fp32 normals: relative error" in stderr


def test_normals_show_an_angle(cli, tmp_path):
    code, stdout, _ = cli("verify", write_plain_bundle(tmp_path / "n", task="normals"))
    row = stdout.splitlines()[1].split()
    assert code == 0
    assert "-" in row
    assert row[-1] == "pass"


def test_every_backend_with_the_checkpoint_at_hand(cli, depth_bundle):
    code, stdout, stderr = cli("verify", depth_bundle)
    assert code == 0
    compared = {line.split()[1] for line in stdout.splitlines()[1:]}
    assert {"onnxruntime", "torch"} <= compared  # and openvino where it is installed
    assert not re.search("(onnxruntime|torch): not compared", stderr)


def test_a_named_device_leaves_out_the_backends_that_do_not_run_on_it(cli, bundle):
    code, stdout, stderr = cli("verify", bundle, "--device", "cpu")
    assert code == 0
    assert "onnxruntime (CPU" in stdout
    assert "tensorrt: not compared: TensorRT runs on a GPU only" in stderr


def test_a_broken_limit_is_exit_3_and_still_a_table(cli, broken):
    code, stdout, stderr = cli("verify", broken)
    assert code == 3
    assert stdout.splitlines()[1].endswith("FAIL")
    error = stderr.splitlines()[-1]
    assert error.startswith("error: onnxruntime fp32: relative error")
    assert "is not below 0.0001" in error


def test_json(cli, bundle, broken):
    code, stdout, _ = cli("verify", broken, "--backend", "onnxruntime", "--json")
    (verdict,) = json.loads(stdout)
    assert code == 3
    assert (verdict["backend"], verdict["precision"]) == ("onnxruntime", "fp32")
    assert verdict["limit"]["relative"] == 1e-4
    assert verdict["parity"]["relative"] > 1e-3
    assert len(verdict["failures"]) == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [(["--backend", "torch"], 5), (["--backend", "ncnn"], 2), (["--device", "tpu"], 2)],
)
def test_a_named_backend_that_is_not_here_is_an_error(cli, bundle, options, expected):
    code, stdout, stderr = cli("verify", bundle, *options)
    assert (code, stdout) == (expected, "")
    assert "rror: " in stderr


def test_a_changed_bundle(cli, bundle):
    with (bundle / "model_24x32.onnx").open("ab") as stream:
        stream.write(b"x")
    code, stdout, stderr = cli("verify", bundle)
    assert (code, stdout, stderr.count("\n")) == (5, "", 1)
    assert "is not the file that was exported" in stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "{bundle}", "--backend", "onnxruntime"),
        ("bench", "{bundle}"),
        ("run", "test:", "--bundle", "{bundle}", "--limit", "1"),
    ],
)
def test_a_checkpoint_that_nothing_would_open(cli, bundle, arguments):
    arguments = [argument.format(bundle=bundle) for argument in arguments]
    code, _, stderr = cli(*arguments, "--checkpoint", "x")
    assert code == 2
    assert "--checkpoint is what PyTorch opens" in stderr


def test_the_checkpoint_is_the_users_to_name(cli, tiny_depth, bundle_copy):
    edit_manifest(bundle_copy, lambda m: m["checkpoint"].update(id="owner/name@0123456789abcdef"))
    code, stdout, stderr = cli("verify", bundle_copy)
    assert code == 0
    assert (
        "torch: not compared: the bundle names the checkpoint owner/name@0123456789abcdef" in stderr
    )
    assert "name what it was exported from with --checkpoint" in stderr
    code, stdout, stderr = cli("verify", bundle_copy, "--checkpoint", tiny_depth)
    assert code == 0
    assert "torch (CPU" in stdout


def test_layers_of_an_unsuitable_bundle_are_refused_before_anything_is_verified(cli, bundle):
    code, stdout, stderr = cli("verify", bundle, "--layers", bundle / "layers")
    assert (code, stdout) == (2, "")
    assert "--layers compares half precision with fp32" in stderr
    assert not (bundle / "layers").exists()
