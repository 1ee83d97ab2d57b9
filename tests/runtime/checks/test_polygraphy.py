import json
import os
import subprocess
import sys
from dataclasses import replace

import onnx
import pytest

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.errors import BundleError
from e2e_deploy.runtime.checks.polygraphy import check_with_polygraphy
from tests.plain_bundle import HW, rehash, write_plain_bundle
from tests.runtime.checks.test_verify import change_reference

pytest.importorskip("polygraphy", reason="the package polygraphy is not installed")


MAIN = "from polygraphy.tools import main; main()"


def opened(root, precision="fp32"):
    bundle = open_bundle(root)
    return replace(bundle, manifest=replace(bundle.manifest, precision=precision))


@pytest.mark.parametrize("task", ["depth", "normals"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_bundle_that_agrees(tmp_path, task, precision):
    root = write_plain_bundle(tmp_path / "b", sizes=[HW, (20, 20)], task=task)
    verdicts = check_with_polygraphy(opened(root, precision))
    assert [v.frame_hw for v in verdicts] == [HW, (20, 20)]
    for verdict in verdicts:
        assert verdict.passed
        assert 0 <= verdict.value < verdict.bound / 100


@pytest.mark.parametrize("output", ["depth", "normals"])
def test_every_output_has_a_verdict_of_its_own(tmp_path, output):
    root = write_plain_bundle(tmp_path / "b", task="geometry")
    change_reference(root, lambda results: results[1].__imul__(1.01), output)
    verdicts = {v.output: v.passed for v in check_with_polygraphy(opened(root))}
    assert verdicts == {"depth": output != "depth", "normals": output != "normals"}


@pytest.mark.parametrize(
    ("task", "precision", "off", "passes"),
    [
        ("depth", "fp32", 3e-5, True),
        ("depth", "fp32", 2e-4, False),
        ("depth", "fp16", 0.004, True),
        ("depth", "fp16", 0.006, False),
        ("normals", "fp16", 0.008, True),
        ("normals", "fp16", 0.01, False),
    ],
)
def test_one_frame_decides(tmp_path, task, precision, off, passes):
    root = write_plain_bundle(tmp_path / "b", task=task)
    change_reference(root, lambda results: results[1].__iadd__(off))
    (verdict,) = check_with_polygraphy(opened(root, precision))
    assert verdict.passed == passes
    assert str(verdict).endswith("pass" if passes else "FAIL")


def test_a_graph_that_does_not_load(tmp_path):
    root = write_plain_bundle(tmp_path / "b")
    model = onnx.load(root / "model_24x32.onnx")
    model.graph.node[0].op_type = "Softmax"  # which takes no uint8
    del model.graph.node[0].attribute[:]
    onnx.save(model, root / "model_24x32.onnx")
    rehash(root, "model_24x32.onnx")
    with pytest.raises(BundleError, match=r"polygraphy cannot run model_24x32\.onnx"):
        check_with_polygraphy(opened(root))


def test_a_graph_that_was_changed_since_it_was_opened(tmp_path):
    bundle = opened(write_plain_bundle(tmp_path / "b"))
    (bundle.root / "model_24x32.onnx").write_bytes(b"\x08\x0a")
    with pytest.raises(BundleError, match="is not the file that was exported"):
        check_with_polygraphy(bundle)


def test_verify_with_polygraphy(cli, tmp_path):
    root = write_plain_bundle(tmp_path / "b")
    given = ["verify", root, "--backend", "onnxruntime", "--with", "polygraphy"]
    code, stdout, _ = cli(*given)
    assert code == 0
    assert stdout.splitlines()[-1].startswith("24x32  depth  polygraphy onnxrt  L2 norm ")
    change_reference(root, lambda results: results[1].__imul__(1.01))
    code, stdout, stderr = cli(*given)
    assert code == 3
    assert stdout.splitlines()[-1].endswith("FAIL")
    assert "polygraphy onnxrt" in stderr.splitlines()[-1]
    code, stdout, _ = cli(*given, "--json")
    assert code == 3
    assert json.loads(stdout)[-1]["metric"] == "L2 norm"


def polygraphy(*arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
class TestCommandLine:
    """polygraphy's own tools on what we export: fp32, with the attention operator and its function."""

    def test_run(self, depth_bundle):
        assert "PASSED" in polygraphy("run", depth_bundle / "model.onnx", "--onnxrt")

    @pytest.mark.rtx
    def test_inspect_capability(self, depth_bundle, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        said = polygraphy(
            "inspect", "capability", depth_bundle / "model.onnx", POLYGRAPHY_USE_TENSORRT_RTX="1"
        )
        assert "Graph is fully supported by TensorRT" in said

    @pytest.mark.rtx
    def test_convert(self, depth_bundle, tmp_path):
        engine = tmp_path / "m.engine"
        polygraphy(
            "convert", depth_bundle / "model.onnx", "--convert-to", "trt", "-o", engine,
            "--compute-capabilities", "8.9", POLYGRAPHY_USE_TENSORRT_RTX="1",
        )  # fmt: skip
        assert engine.read_bytes().startswith(b"vtrt")
