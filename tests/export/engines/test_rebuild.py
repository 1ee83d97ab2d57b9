import subprocess
import sys

import pytest

import e2e_deploy as e2e
from tests import fake_gpu
from tests.plain_bundle import HW, write_plain_bundle
from tests.runtime.fake_plans import VERSION, add_plan


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    return fake_gpu.install(monkeypatch, tmp_path / "cache")


def test_a_plan_that_does_not_fit_is_built_again_and_said_once(gpu, tmp_path):
    root, notes = write_plain_bundle(tmp_path / "bundle"), []
    add_plan(root, version="10.13.2")
    bundle = e2e.rebuild_plans(root, on_note=notes.append)
    assert [plan.version for plan in bundle.manifest.plans] == [VERSION]
    assert "10.13.2" in notes[0]
    assert e2e.rebuild_plans(bundle, "tensorrt", on_note=notes.append).manifest == bundle.manifest
    assert len(notes) == 1


def test_a_named_kind_gets_its_first_plans(gpu, tmp_path):
    root = write_plain_bundle(tmp_path / "bundle", sizes=[HW, (48, 64)])
    assert len(e2e.rebuild_plans(root, "tensorrt").manifest.plans) == 2


def test_what_has_no_plans_is_wrong_usage(tmp_path):
    root = write_plain_bundle(tmp_path / "bundle")
    with pytest.raises(e2e.UsageError, match="holds no plan .* name a `backend`"):
        e2e.rebuild_plans(root)
    with pytest.raises(e2e.UsageError, match="onnxruntime has none to rebuild"):
        e2e.rebuild_plans(root, "onnxruntime")


def test_what_cannot_be_built_here_is_a_note_unless_it_was_named(tmp_path, monkeypatch):
    monkeypatch.setattr("e2e_deploy.nvidia.cuda_driver.cuda_device_count", lambda: 0)
    root, notes = write_plain_bundle(tmp_path / "bundle"), []
    add_plan(root, version="10.13.2")
    before = (root / "manifest.json").read_bytes()
    e2e.rebuild_plans(root, on_note=notes.append)
    assert notes[0].startswith("tensorrt: not rebuilt: ")
    with pytest.raises(e2e.UnavailableError):
        e2e.rebuild_plans(root, "tensorrt")
    assert (root / "manifest.json").read_bytes() == before


def test_a_lean_install_names_what_builds_plans_without_torch(tmp_path, monkeypatch):
    root = write_plain_bundle(tmp_path / "bundle")
    add_plan(root, version="10.13.2")
    monkeypatch.setattr("e2e_deploy.export.engines.rebuild._misfit", lambda *_: "another GPU")
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    with pytest.raises(e2e.UnavailableError, match=r"pip install 'e2e-deploy\[rebuild\]'"):
        e2e.rebuild_plans(root, "tensorrt")


def test_building_plans_imports_no_torch():
    """On a robot: plans are built there of the bundle's own graph."""
    code = "import sys, e2e_deploy.export.engines.replace_plan\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
