import json
import re
import shutil
import subprocess
import sys

import pytest

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.bundle.manifest import MANIFEST
from e2e_deploy.bundle.new_bundle import new_bundle, write_manifest
from e2e_deploy.errors import BundleError, E2EDeployError, UsageError
from tests.plain_bundle import edit_manifest, write_plain_bundle


@pytest.fixture
def bundle(tmp_path):
    return write_plain_bundle(tmp_path / "bundle")


def entries(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}


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
    listed = list(manifest.files)
    with new_bundle(bundle) as folder:
        shutil.copytree(bundle, folder, dirs_exist_ok=True)
        (folder / "model_24x32.onnx").rename(folder / "model.onnx")
        write_manifest(folder, manifest)
        assert (bundle / "model_24x32.onnx").exists()
    assert listed == ["model_24x32.onnx", "reference/24x32.npz"]
    assert entries(bundle) == {"manifest.json", "model.onnx", "reference/24x32.npz"}
    nothing_but(bundle.parent, "bundle")
    assert bundle.stat().st_mode & 0o777 == 0o755


def test_a_bundle_of_another_version_is_replaced(bundle):
    """After an update the same command must work on the same folder."""
    edit_manifest(bundle, lambda m: m.update(schema=1, plans="as they once were", gone=[1]))
    with new_bundle(bundle) as folder:
        (folder / "x").write_text("new")
    assert entries(bundle) == {"x"}


def test_what_a_killed_rebuild_left_goes_with_the_old_bundle(bundle):
    (bundle / "plans").mkdir()
    for name in (
        "plans/24x32-fp16-tensorrt-rtx-1.3-sm80+.plan",
        "plans/.24x32-fp16-tensorrt-rtx.0a1b2c3d.plan",
        ".manifest.0a1b2c3d.json",
    ):
        (bundle / name).write_text("half")
    with new_bundle(bundle) as folder:
        (folder / "x").write_text("new")
    assert entries(bundle) == {"x"}
    nothing_but(bundle.parent, "bundle")


EXTENSION = {"manifest_version": 3, "name": "My extension", "version": "1.0"}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.jpg": "mine"}, "is missing|No such file"),
        (
            {"manifest.json": json.dumps(EXTENSION), "src/app.js": "x", ".git/HEAD": "x"},
            "e2e-deploy's",
        ),
        ({"manifest.json": "[" * 100_000}, "JSON"),
        ({"manifest.json": "\xff"}, ""),
        ({"manifest.json/a": "a folder"}, "a folder"),
    ],
)
def test_a_folder_that_is_no_bundle_stays_as_it_is(tmp_path, files, said):
    root = tmp_path / "mine"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match="is not a bundle .*" + said) as caught, new_bundle(root):
        pytest.fail("the block must not run")
    assert "\n" not in str(caught.value)
    assert entries(root) == set(files)
    nothing_but(tmp_path, "mine")


@pytest.mark.parametrize("name", ["notes.txt", "plans/notes.txt", ".git/HEAD", "empty/"])
def test_a_bundle_with_something_of_the_users_in_it_is_not_replaced(bundle, name):
    before = entries(bundle)
    if name.endswith("/"):
        (bundle / name).mkdir()
    else:
        (bundle / name).parent.mkdir(exist_ok=True)
        (bundle / name).write_text("mine")
    refusal = re.escape(f"holds {name.rstrip('/')!r} besides what would be replaced")
    with pytest.raises(UsageError, match=refusal), new_bundle(bundle):
        pytest.fail("the block must not run")
    assert entries(bundle) >= before
    assert (bundle / name).exists()


def test_a_manifest_that_lists_what_is_outside_deletes_nothing(bundle, tmp_path):
    (tmp_path / "mine").write_text("mine")
    edit_manifest(
        bundle, lambda m: m["files"].update({"../mine": {"bytes": 4, "sha256": "0" * 64}})
    )
    with pytest.raises(UsageError, match="leaves its folder"), new_bundle(bundle):
        pytest.fail("the block must not run")
    assert (tmp_path / "mine").exists()


def test_a_full_disk(bundle, full_disk):
    with (
        full_disk(1000),
        pytest.raises(E2EDeployError, match="could not be written: File too large; nothing was"),
        new_bundle(bundle) as folder,
    ):
        (folder / "model.onnx").write_bytes(bytes(5000))
    assert open_bundle(bundle)
    nothing_but(bundle.parent, "bundle")


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(E2EDeployError, match="could not be written"),
        new_bundle(tmp_path / "file" / "bundle"),
    ):
        pytest.fail("the block must not run")


def test_a_process_killed_while_writing_leaves_no_bundle(tmp_path):
    code = (
        "import os, pathlib, signal, sys\n"
        "from e2e_deploy.bundle.new_bundle import new_bundle\n"
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
