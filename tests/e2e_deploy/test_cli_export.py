import os
import subprocess
import sys

import pytest

from e2e_deploy.bundle import open_bundle
from e2e_deploy.errors import BundleError
from e2e_deploy.export import onnx_export
from tests.small_checkpoint import write_small

MAIN = "from e2e_deploy.cli import main; main()"


def one_sentence(stderr):
    last = stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert "Traceback" not in stderr
    return last


@pytest.mark.slow
def test_a_checkpoint_becomes_a_bundle_in_the_folder_one_is_in(small, tmp_path):
    """A whole run as a user makes it: new process, default output folder, plain lines in a pipe."""
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "export", small, "--frame-size", "40x32"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "depth-fp32\n"
    bundle = open_bundle(tmp_path / "depth-fp32")
    assert bundle.manifest.frame_sizes == [(40, 32)]
    assert bundle.manifest.resolution == 64
    lines = done.stderr.splitlines()
    assert lines[0].startswith(f"{small}: Marigold, one step")
    assert any(line.startswith("trace 40x32") and line.endswith(" s") for line in lines)
    assert any("verified 40x32: onnxruntime fp32" in line for line in lines)
    assert "\x1b" not in done.stderr
    assert "Warning" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["depth-fp32"]


@pytest.fixture
def stopped(monkeypatch):
    """Export up to the trace, which is where the time goes; returns what it was asked to trace."""
    seen = []

    def stop(module, example, **names):
        seen.append((module, tuple(example.shape)))
        raise KeyboardInterrupt

    monkeypatch.setattr(onnx_export, "trace", stop)
    return seen


def test_without_a_checkpoint_the_bundled_one_is_exported(cli, stopped, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("e2e_deploy.export.exporter.DEFAULT_FRAME_SIZE", (32, 48))
    code, stdout, stderr = cli("export", "--task", "normals", "--out", tmp_path / "b")
    assert (code, stdout) == (130, "")
    assert "note: untrained weights" in stderr
    ((module, shape),) = stopped
    assert shape == (1, 32, 48, 3)
    assert module.task == "normals"


def test_task_and_family_decide_where_configs_do_not_tell(cli, stopped, tmp_path):
    folder = write_small(tmp_path / "c", index={"_class_name": "MarigoldPipeline"})
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    options = ["--out", tmp_path / "b", "--frame-size", "32x32", "--resolution", "32"]
    for named, family, task in (
        ([], "e2e-ft", "depth"),
        (["--task", "normals"], "e2e-ft", "normals"),
        (["--family", "marigold"], "marigold", "depth"),
    ):
        code, _, stderr = cli("export", folder, *options, *named)
        assert code == 130
        assert f"family {family}: " in stderr
        assert f"task {task}: " in stderr
        assert stopped[-1][0].task == task


def test_ctrl_c_leaves_nothing(cli, stopped, small, tmp_path):
    code, stdout, stderr = cli("export", small, "--out", tmp_path / "b", "--frame-size", "32x32")
    assert (code, stdout) == (130, "")
    assert stderr.endswith("interrupted\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [
        ["--frame-size", "480"],
        ["--frame-size", "10x10"],
        ["--resolution", "-3"],
        ["--precision", "fp7"],
        ["--task", "segmentation"],
        ["--family", "lotus"],
        ["--family", "nobody"],
    ],
)
def test_wrong_usage(cli, small, tmp_path, options):
    code, stdout, stderr = cli("export", small, "--out", tmp_path / "b", *options)
    assert (code, stdout) == (2, "")
    assert "rror: " in stderr
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_cannot_be_written(cli, small, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file" / "b", "/proc/none/b"):
        code, stdout, stderr = cli("export", small, "--out", out)
        assert (code, stdout) == (1, "")
        assert "could not be written" in one_sentence(stderr)
    code, _, stderr = cli("export", small, "--out", tmp_path)
    assert code == 2
    assert "exists and is not a bundle" in one_sentence(stderr)


def test_a_full_disk(cli, small, tmp_path, full_disk):
    with full_disk(3000):
        code, stdout, stderr = cli("export", small, "--out", tmp_path / "b")
    assert (code, stdout) == (1, "")
    assert "File too large; nothing was changed" in one_sentence(stderr)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BundleError):
        open_bundle(tmp_path / "b")


def test_a_hub_id_is_no_folder_name_by_accident(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, stderr = cli("export", "prs-eth/marigold-depth-v1-1")
    assert code == 2
    assert "must be pinned to a commit" in one_sentence(stderr)
    assert os.listdir(tmp_path) == []
