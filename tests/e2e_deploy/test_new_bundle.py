import json
import os
import shutil
import subprocess
import sys

import pytest

from e2e_deploy.bundle import open_bundle
from e2e_deploy.errors import BundleError, E2EDeployError, UsageError
from e2e_deploy.manifest import MANIFEST
from e2e_deploy.new_bundle import new_bundle, write_manifest
from tests.plain_bundle import write_plain_bundle


@pytest.fixture
def bundle(tmp_path):
    return write_plain_bundle(tmp_path / "bundle")


def nothing_but(folder, *names):
    assert sorted(p.name for p in folder.iterdir()) == sorted(names)


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt()])
def test_a_failed_export_leaves_the_old_bundle(bundle, error):
    before = (bundle / MANIFEST).read_bytes()
    with pytest.raises(type(error)), new_bundle(bundle) as folder:
        (folder / "model.onnx").write_bytes(b"half")
        raise error
    assert (bundle / MANIFEST).read_bytes() == before
    nothing_but(bundle.parent, "bundle")


def test_a_new_bundle_replaces_the_old_one(bundle):
    manifest = open_bundle(bundle).manifest
    (bundle / "leftover").write_text("of the old one")
    with new_bundle(bundle) as folder:
        shutil.copytree(bundle, folder, dirs_exist_ok=True)
        (folder / "leftover").unlink()
        write_manifest(folder, manifest)
        assert (bundle / "leftover").exists()
    assert open_bundle(bundle).manifest == manifest
    assert not (bundle / "leftover").exists()
    nothing_but(bundle.parent, "bundle")
    assert bundle.stat().st_mode & 0o777 == 0o755


def test_when_the_last_step_fails_the_old_bundle_is_put_back(bundle, monkeypatch):
    replace = os.replace

    def fails(source, target):
        if ".partial-" in str(source):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with (
        pytest.raises(E2EDeployError, match="No space left on device; nothing was changed"),
        new_bundle(bundle) as folder,
    ):
        (folder / "x").write_text("x")
    assert open_bundle(bundle)
    nothing_but(bundle.parent, "bundle")


def test_a_full_disk(bundle, full_disk):
    with (
        full_disk(1000),
        pytest.raises(E2EDeployError, match="could not be written: File too large; nothing was"),
        new_bundle(bundle) as folder,
    ):
        (folder / "model.onnx").write_bytes(bytes(5000))
    assert open_bundle(bundle)
    nothing_but(bundle.parent, "bundle")


def test_something_else_in_the_way_is_not_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("photos", "file"):
        with (
            pytest.raises(UsageError, match="exists and is not a bundle"),
            new_bundle(tmp_path / name),
        ):
            pytest.fail("the block must not run")
    (tmp_path / "empty").mkdir()
    with new_bundle(tmp_path / "empty") as folder:
        (folder / MANIFEST).write_text("{}")
    assert json.loads((tmp_path / "empty" / MANIFEST).read_text()) == {}


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(E2EDeployError, match="could not be written"),
        new_bundle(tmp_path / "file" / "bundle"),
    ):
        pytest.fail("the block must not run")

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", denied)  # root may write everywhere
    with pytest.raises(E2EDeployError, match="Permission denied"), new_bundle(tmp_path / "bundle"):
        pytest.fail("the block must not run")


def test_a_process_killed_while_writing_leaves_no_bundle(tmp_path):
    code = (
        "import os, pathlib, signal, sys\n"
        "from e2e_deploy.new_bundle import new_bundle\n"
        "with new_bundle(pathlib.Path(sys.argv[1])) as folder:\n"
        "    (folder / 'model.onnx').write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    target = tmp_path / "bundle"
    done = subprocess.run([sys.executable, "-c", code, target], check=False)
    assert done.returncode == -9
    assert not target.exists()
    with pytest.raises(BundleError, match="does not exist"):
        open_bundle(target)
    assert open_bundle(write_plain_bundle(target))
