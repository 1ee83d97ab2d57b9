import os
import subprocess
import sys
from pathlib import Path

import pytest

import e2e_deploy as e2e
from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.errors import BundleError, UnavailableError
from e2e_deploy.export.exporter import default_out
from e2e_deploy.export.onnx import trace
from e2e_deploy.nvidia.hardware import cuda_device_count
from tests.plain_bundle import write_plain_bundle
from tests.small_checkpoint import write_small

MAIN = "from e2e_deploy.cli import main; main()"


def test_the_default_folder_is_called_after_the_checkpoint(tmp_path, monkeypatch):
    (tmp_path / "depth@2" / "unet").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "depth@2")
    names = {
        ".": "depth@2",
        "unet/..": "depth@2",
        "unet/": "unet",
        str(tmp_path / "depth@2"): "depth@2",
        "owner/name@" + 40 * "0": "name",
        "bundled:e2e-tiny-depth": "e2e-tiny-depth",
    }
    for checkpoint_id, name in names.items():
        assert default_out(checkpoint_id, "fp16") == Path(f"{name}-fp16")


def one_sentence(stderr):
    last = stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert "Traceback" not in stderr
    return last


def test_a_new_bundle_goes_into_a_model_repository_too(cli, tmp_path, monkeypatch):
    bundle = write_plain_bundle(tmp_path / "made")
    asked = []

    def export(checkpoint, out, **options):
        asked.append((checkpoint, options.get("triton")))
        return open_bundle(bundle)

    monkeypatch.setattr("e2e_deploy.export.exporter.export_bundle", export)
    models = tmp_path / "models"
    code, stdout, _ = cli("export", str(tmp_path), "--triton", str(models))
    assert (code, stdout.splitlines()) == (0, [str(bundle), str(models / "made")])
    assert (models / "made/config.pbtxt").is_file()
    assert asked == [(str(tmp_path), None)]  # a folder without a manifest is a checkpoint
    code, stdout, _ = cli("export", str(bundle), "--triton", str(models))
    assert (code, stdout.splitlines(), len(asked)) == (0, [str(models / "made")], 1)


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
    assert lines[0].startswith(f"{small}: one-step Marigold")
    assert any(line.startswith("trace 40x32") and line.endswith(" s") for line in lines)
    assert any("verified 40x32: onnxruntime fp32" in line for line in lines)
    assert any(
        line.startswith("note: no plan: in fp32 TensorRT-RTX has no fused") for line in lines
    )
    assert bundle.manifest.plans == []
    assert "\x1b" not in done.stderr
    assert "Warning" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["depth-fp32"]


@pytest.mark.slow
@pytest.mark.rtx
@pytest.mark.skipif(cuda_device_count() > 0, reason="there is a GPU, for which TensorRT may build")
def test_half_precision_ends_in_an_engine(cli, tiny_depth, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = ["--precision", "fp16", "--frame-size", "64x64", "--resolution", "64"]
    options += ["--opt-level", "2", "--workspace", "512"]
    code, stdout, stderr = cli("export", tiny_depth, "--out", tmp_path / "b", *options)
    assert (code, stdout) == (0, f"{tmp_path / 'b'}\n")
    assert "note: no TensorRT plan: TensorRT builds only on a machine with an NVIDIA" in stderr
    assert "note: TensorRT-RTX plan 64x64 sm80+: built in " in stderr
    manifest = open_bundle(tmp_path / "b").manifest
    (entry,) = manifest.plans
    assert manifest.opset == 21
    assert (entry.backend, entry.target, entry.precision) == ("tensorrt-rtx", "sm80+", "fp16")
    assert (entry.options["level"], entry.options["workspace_bytes"]) == (2, 512 << 20)
    with e2e.load(tmp_path / "b", device="cpu") as engine:
        assert engine.backend.name == "onnxruntime"


@pytest.mark.parametrize("option", [["--opt-level", "5"], ["--workspace", "64"]])
def test_what_only_an_engine_has_is_refused_without_one(cli, small, tmp_path, option):
    given = ["export", small, "--out", tmp_path / "b", "--engine", "onnx", *option]
    code, _, stderr = cli(*given)
    assert code == 2
    assert "a plan's, and --engine onnx has none" in one_sentence(stderr)
    assert not (tmp_path / "b").exists()


def test_auto_without_any_library_is_a_note(cli, stopped, small, tmp_path, monkeypatch):
    def missing(name):
        raise UnavailableError(f"the package {name!r} is not installed")

    monkeypatch.setattr("e2e_deploy.export.engines.build.find_api", missing)
    given = ["export", small, "--out", tmp_path / "b", "--frame-size", "32x32"]
    assert cli(*given)[0] == 130  # it came as far as the trace
    code, _, stderr = cli(*given, "--engine", "tensorrt-rtx")
    assert code == 4
    assert "the package 'tensorrt-rtx' is not installed" in one_sentence(stderr)
    assert len(stopped) == 1


@pytest.fixture
def stopped(monkeypatch):
    """Export up to the trace, which is where the time goes; returns what it was asked to trace."""
    seen = []

    def stop(module, example, **names):
        seen.append((module, tuple(example.shape)))
        raise KeyboardInterrupt

    monkeypatch.setattr(trace, "trace", stop)
    return seen


def test_without_a_checkpoint_the_bundled_one_is_exported(cli, stopped, tmp_path, monkeypatch):
    monkeypatch.setattr("e2e_deploy.export.exporter.DEFAULT_FRAME_SIZE", (32, 48))
    code, stdout, stderr = cli("export", "--task", "normals", "--out", tmp_path / "b")
    assert (code, stdout) == (130, "")
    assert "bundled:e2e-tiny-normals" in stderr
    assert "untrained" not in stderr
    ((module, shape),) = stopped
    assert shape == (1, 32, 48, 3)
    assert [kind.name for kind in module.kinds] == ["normals"]


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
        assert [kind.name for kind in stopped[-1][0].kinds] == [task]


def test_a_core_graph_takes_what_the_network_sees(cli, stopped, small, tmp_path):
    options = ["--out", tmp_path / "b", "--frame-size", "130x190", "--resolution", "0"]
    for named, size in (([], (130, 190)), (["--dynamic"], (192, 192))):
        assert cli("export", small, *options, "--graph", "core", *named)[0] == 130
        assert stopped[-1][1] == (1, 3, *size)


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
        ["--task", "pose"],
        ["--family", "lotus-2"],
        ["--family", "nobody"],
        ["--dynamic"],
        ["--accept-accuracy"],
        ["--graph", "half"],
        ["--batch", "0"],
        ["--batch", "65"],
        ["--engine", "onnx", "--target", "sm89"],
        ["--precision", "int8", "--target", "sm89"],
    ],
)
def test_wrong_usage(cli, small, tmp_path, options):
    code, stdout, stderr = cli("export", small, "--out", tmp_path / "b", *options)
    assert (code, stdout) == (2, "")
    assert "rror: " in stderr
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--graph", "core", "--dynamic", "--frame-size", "100x100"),
        ("--dynamic",),
        ("no/such/folder",),
    ],
)
def test_nothing_is_loaded_for_what_cannot_be_exported(cli, monkeypatch, arguments):
    monkeypatch.setattr(
        "e2e_deploy.export.exporter.require", lambda *names: pytest.fail("torch is loaded")
    )
    code, _, stderr = cli("export", *arguments)
    assert code in (2, 5)
    assert one_sentence(stderr)


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
