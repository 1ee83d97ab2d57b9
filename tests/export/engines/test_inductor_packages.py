"""Real packages of e2e-tiny for this CPU: exported, hashed, run without diffusers, rebuilt, and refused elsewhere.

One is compiled, which takes two minutes of CPU time, and serves all tests here; EVERY_PACKAGE=1 in the environment
compiles one of each task and precision.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

import e2e_deploy as e2e
from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.bundle.manifest import parse_manifest
from e2e_deploy.bundle.new_bundle import write_manifest
from e2e_deploy.errors import CheckpointError, PlanMismatchError, UnavailableError, UsageError
from e2e_deploy.export.engines import inductor_process
from e2e_deploy.export.engines.inductor_job import inductor_job
from e2e_deploy.model.checkpoint import bundled_checkpoint
from tests.small_checkpoint import edit_weights

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # a compiler on a busy machine


@pytest.fixture(scope="module", autouse=True)
def kept(tmp_path_factory):
    """Plans of these tests, kept as a user's are; skips where none can be compiled."""
    try:
        inductor_job(None)
    except UnavailableError as error:
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("kept")))
        yield


def export(checkpoint, out, **options):
    return e2e.export_bundle(checkpoint, out, engine="inductor", **options)


TASK, PRECISION = "normals", "bf16"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """e2e-tiny in bf16 with its package."""
    folder = tmp_path_factory.mktemp("bundles") / "b"
    return export(None, folder, task=TASK, precision=PRECISION, frame_sizes=[(64, 96)])


@pytest.fixture(scope="module")
def checkpoint():
    """What it was exported from."""
    return bundled_checkpoint(TASK)


@pytest.fixture
def copy(bundle, tmp_path):
    return shutil.copytree(bundle.root, tmp_path / "copy")


WITHOUT_DIFFUSERS = """
import sys
from importlib.abc import MetaPathFinder

class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("diffusers", "transformers", "accelerate"):
            raise ImportError(f"{name} is not for the run time")

sys.meta_path.insert(0, Refuse())
import e2e_deploy as e2e
found = e2e.verify_bundle(sys.argv[1], backend="inductor", device="cpu")
assert not found.failures, found.failures
print([verdict.backend for verdict in found.verdicts], "torch._inductor" in sys.modules)
"""


def verified_without_diffusers(root):
    script = [sys.executable, "-c", WITHOUT_DIFFUSERS, str(root)]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def check(bundle, precision):
    """What an export promises of a bundle with a package."""
    manifest = bundle.manifest
    (entry,) = manifest.plans
    assert (entry.backend, entry.precision) == ("inductor", precision)
    assert (entry.gpu, entry.cuda) == ("", 0)
    assert entry.file in manifest.files
    assert entry.seconds > 0
    verified = [v for v in manifest.verification if v.backend == "inductor"]
    assert [(v.precision, v.passed) for v in verified] == [(precision, True)]
    assert verified_without_diffusers(bundle.root) == "['inductor'] False"


def test_an_export_ends_in_a_package_that_runs_without_diffusers(bundle):
    check(bundle, PRECISION)


def relist(root, **changes):
    """The bundle as if its package had been compiled elsewhere."""
    manifest = parse_manifest((root / "manifest.json").read_text())
    plans = [replace(plan, **changes) for plan in manifest.plans]
    write_manifest(root, replace(manifest, plans=plans))
    return open_bundle(root)


@pytest.mark.parametrize(
    "change", [{"target": "armv9-a"}, {"version": "2.0.0"}], ids=["target", "version"]
)
def test_one_for_elsewhere_is_refused_and_rebuilt_from_the_checkpoint(
    checkpoint, copy, bundle, change, monkeypatch
):
    before, notes = relist(copy, **change), []
    with pytest.raises(PlanMismatchError, match=next(iter(change.values()))):
        e2e.load(before, backend="inductor")
    monkeypatch.setattr(inductor_process, "Child", None)  # it is the same as in the cache
    given = {"checkpoint": checkpoint, "on_note": notes.append}
    after = e2e.rebuild_plans(copy, "inductor", **given)
    assert next(iter(change.values())) in notes[0]
    same, entry = bundle.manifest.plans[0], after.manifest.plans[-1]
    assert replace(entry, seconds=same.seconds) == same
    assert after.manifest.files[entry.file] == bundle.manifest.files[entry.file]
    assert not e2e.verify_bundle(copy, "inductor").failures
    assert e2e.rebuild_plans(after, "inductor", **given).manifest == after.manifest


def test_another_checkpoint_is_refused(copy, tmp_path):
    relist(copy, version="2.0.0")
    before = (copy / "manifest.json").read_bytes()
    other = shutil.copytree(bundled_checkpoint(TASK), tmp_path / "other")
    edit_weights(other, "unet", lambda held: held | {"conv_in.bias": held["conv_in.bias"] + 1})
    with pytest.raises(CheckpointError, match="is not the checkpoint this bundle was exported"):
        e2e.rebuild_plans(copy, "inductor", checkpoint=other)
    assert (copy / "manifest.json").read_bytes() == before


def test_nvidias_plans_take_no_checkpoint(copy, checkpoint):
    with pytest.raises(UsageError, match="`checkpoint` is what AOTInductor compiles"):
        e2e.rebuild_plans(copy, "tensorrt", checkpoint=checkpoint)


def test_the_command_that_rebuilds(cli, copy, checkpoint):
    relist(copy, version="2.0.0")
    given = ["verify", copy, "--backend", "inductor"]
    code, _, stderr = cli(*given)
    assert code == 4
    assert f"e2e-deploy verify {copy} --backend inductor --rebuild" in stderr
    code, stdout, stderr = cli(*given, "--rebuild", "--checkpoint", checkpoint)
    assert code == 0, stderr
    assert "inductor" in stdout


@pytest.mark.skipif("EVERY_PACKAGE" not in os.environ, reason="EVERY_PACKAGE=1 compiles it")
@pytest.mark.parametrize(
    ("task", "precision"), [("depth", "fp32"), ("depth", "bf16"), ("normals", "fp32")]
)
def test_each_task_and_precision(tmp_path, task, precision):
    given = {"task": task, "precision": precision, "frame_sizes": [(64, 96)]}
    check(export(None, tmp_path / "b", **given), precision)
