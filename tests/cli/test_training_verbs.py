"""The verbs that work on data and training, through the command line's own entry point."""

import json
import os
import subprocess
import sys

import cv2
import pytest
from safetensors.torch import load_file, save_file

from e2e_deploy.cli import main
from e2e_deploy.train.data.folder import FolderDataset
from tests.train.fixtures import write_folder, write_hypersim, write_vkitti2
from tests.train.small_runs import one_thread, run_table

__all__ = ["one_thread"]  # which holds here too


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


def toml(table):
    """Enough TOML for a run's table."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items() if key == "task"]
    for key, value in table.items():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                lines.append(f"[[{key}]]" if isinstance(value, list) else f"[{key}]")
                lines += [f"{name} = {json.dumps(inner)}" for name, inner in part.items()]
    return "\n".join(lines)


def test_train_then_eval(tmp_path, capsys):
    (tmp_path / "run.toml").write_text(toml(run_table(tmp_path)))
    out = tmp_path / "elsewhere"
    code, stdout, _ = call(capsys, "train", tmp_path / "run.toml", "--steps", 2, "--out", out)
    assert (code, stdout) == (0, f"{out / 'model'}\n")
    code, _, stderr = call(capsys, "train", tmp_path / "run.toml", "--out", out, "--no-resume")
    assert code == 2
    assert "holds a run" in stderr

    model, data = out / "model", tmp_path / "data"
    code, stdout, _ = call(capsys, "eval", model, data, "--split", "train", "--limit", 2)
    assert code == 0
    assert "2 images" in stdout
    assert "abs_rel" in stdout
    sheet, rows = tmp_path / "worst.png", tmp_path / "rows.csv"
    extra = ("--json", "--worst", sheet, "--rows", rows, "--resolution", 0)
    code, stdout, _ = call(capsys, "eval", model, data, "--split", "train", *extra)
    assert code == 0
    result = json.loads(stdout)
    assert (result["kinds"], result["num_images"]) == (["depth"], 6)
    assert 0 < result["metrics"]["abs_rel"] < 1
    assert cv2.imread(str(sheet)) is not None
    assert len(rows.read_text().splitlines()) == 7

    # The same decoder with the opposite sign: near = 1, and every number the same.
    file = model / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    save_file(
        {key: -value if "decoder.conv_out" in key else value for key, value in tensors.items()},
        file,
    )
    options = ("--split", "train", "--json", "--resolution", 0)
    code, stdout, stderr = call(capsys, "eval", model, data, *options)
    inverted = json.loads(stdout)
    assert code == 3
    assert inverted["metrics"]["abs_rel"] == pytest.approx(result["metrics"]["abs_rel"], rel=1e-3)
    assert "the depth is inverted: the fitted scale is negative in 6 of 6 images" in stderr


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("worst", "must end in .png"),
        ("worst.jpg", "must end in .png"),
        ("folder.png", "is no file"),
        ("link.png", "is a link"),
        ("pipe.png", "is no file"),
        ("notes.txt/worst.png", "is no folder for that"),
        ("data/train/rgb/s000.png", "lies in the data set"),
    ],
)
def test_files_that_cannot_be_written_are_refused_before_the_work(
    tmp_path, capsys, monkeypatch, name, reason
):
    data = write_folder(tmp_path / "data", num_samples=1)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "victim.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "notes.txt").write_text("mine")
    before = (data / "train" / "rgb" / "s000.png").read_bytes()
    monkeypatch.setattr(FolderDataset, "read", None)
    for verb in (
        ["eval", tmp_path, data, "--split", "train", "--worst"],
        ["data", "check", data, "--sheet"],
    ):
        code, stdout, stderr = call(capsys, *verb, tmp_path / name)
        assert (code, stdout) == (2, "")
        assert reason in stderr.replace("\n", " ")
    code, _, stderr = call(capsys, "eval", tmp_path, data, "--rows", "/dev/null")
    assert code == 2
    assert "must end in .csv" in stderr
    assert (data / "train" / "rgb" / "s000.png").read_bytes() == before
    assert not (tmp_path / "victim.png").exists()


@pytest.mark.parametrize(
    ("is_bundle", "option", "reason"),
    [
        (True, ["--task", "depth"], "--task is for checkpoints"),
        (True, ["--family", "marigold"], "--family is for checkpoints"),
        (True, ["--resolution", 0], "--resolution is for checkpoints"),
        (True, ["--backend", "diffusers"], "--backend diffusers runs a checkpoint"),
        (True, ["--steps", 4], "--steps is for --backend diffusers"),
        (False, ["--backend", "onnxruntime"], "--backend onnxruntime is for bundles"),
        (False, ["--steps", 4], "--steps is for --backend diffusers"),
        (False, ["--spacing", "leading"], "--spacing is for --backend diffusers"),
        (False, ["--ensemble", 10], "--ensemble is for --backend diffusers"),
        (False, ["--seed", 0], "--seed is for --backend diffusers"),
    ],
)
def test_eval_refuses_what_would_change_nothing(tmp_path, capsys, is_bundle, option, reason):
    if is_bundle:
        (tmp_path / "manifest.json").write_text("{}")
    code, stdout, stderr = call(capsys, "eval", tmp_path, tmp_path, *option)
    assert (code, stdout) == (2, "")
    assert reason in stderr


@pytest.mark.slow
def test_eval_of_a_bundle_agrees_with_its_checkpoint(depth_bundle, tiny_depth, tmp_path, capsys):
    data = write_folder(tmp_path / "data", num_samples=2, size=(96, 128))
    options = ("--split", "train", "--json")
    _, one, _ = call(capsys, "eval", tiny_depth, data, *options, "--resolution", 0)
    _, other, told = call(capsys, "eval", depth_bundle, data, *options, "--device", "cpu")
    one, other = json.loads(one)["metrics"], json.loads(other)["metrics"]
    assert other["abs_rel"] == pytest.approx(one["abs_rel"], rel=1e-3)
    assert "backend: onnxruntime" in told


def test_mistakes_in_a_config_are_one_line_before_torch_is_loaded(tmp_path):
    (tmp_path / "run.toml").write_text("task = 'dept'\nstarts = 1")
    code = "import sys; sys.modules['torch'] = None; from e2e_deploy.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "train", str(tmp_path / "run.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "task is 'dept'" in done.stderr
    assert "unknown key starts" in done.stderr


def test_steps_of_a_config_with_several_runs_are_refused(tmp_path, capsys):
    table = run_table(tmp_path, then=[{"size": [48, 56], "steps": 1}])
    (tmp_path / "run.toml").write_text(toml(table))
    code, _, stderr = call(capsys, "train", tmp_path / "run.toml", "--steps", 2)
    assert code == 2
    assert "--steps is for one run, and this config has 2" in stderr


def test_prepare_and_check(tmp_path, capsys):
    write_hypersim(tmp_path)
    code, stdout, stderr = call(
        capsys, "data", "prepare", "hypersim", tmp_path, tmp_path / "hypersim"
    )
    assert code == 0, stderr
    assert stdout == "3 written, 0 already there, 0 bad, 1 not downloaded\n"
    (tmp_path / "source").mkdir()
    source = write_vkitti2(tmp_path / "source")
    out = tmp_path / "vkitti2"
    arguments = ("data", "prepare", "vkitti2", source, out, "--val-scene", "Scene02", "--json")
    code, stdout, _ = call(capsys, *arguments)
    assert code == 0
    assert json.loads(stdout)["num_written"] == 2
    assert (out / "val").is_dir()
    code, _, stderr = call(capsys, "data", "prepare", "vkitti2", source, out, "--no-normals")
    assert code == 2
    assert "--no-normals" in stderr

    sheet = tmp_path / "sheet.png"
    code, stdout, _ = call(capsys, "data", "check", out, "--sheet", sheet)
    assert code == 0
    assert "vkitti2: with normals" in stdout
    assert sheet.is_file()


def test_render(tmp_path, capsys):
    pytest.importorskip("mitsuba")
    out = tmp_path / "rendered"
    counts = ("--train", 1, "--val", 0, "--test", 0)
    code, stdout, stderr = call(
        capsys, "data", "render", out, *counts, "--size", "32x40", "--samples", 1
    )
    assert (code, stdout) == (0, f"{out}\n")
    assert "rendering: 1/1" in stderr
    assert len(list((out / "train" / "rgb").iterdir())) == 1


def test_check_names_what_is_damaged(tmp_path, capsys):
    root = write_folder(tmp_path / "data", num_samples=3)
    (root / "train" / "depth" / "s001.png").write_bytes(b"\x89PNG")
    code, stdout, stderr = call(capsys, "data", "check", root, "--json")
    assert code == 5
    assert json.loads(stdout)["ok"] is False
    assert "bad: s001" in stderr


def test_eval_in_diffusers_own_pipeline(small, tmp_path, capsys):
    data = write_folder(tmp_path / "data", num_samples=2)
    options = ("--split", "train", "--backend", "diffusers", "--steps", 2, "--ensemble", 2)
    results = []
    for seed in (7, 7, 8):
        command = ["eval", small, data, *options, "--spacing", "leading", "--seed", seed, "--json"]
        code, stdout, stderr = call(capsys, *command)
        assert code in (0, 3)  # weights from a seed may well be inverted
        results.append(json.loads(stdout))
        told = "2 steps (leading spacing, t = 501 to 1), ensemble of 2, seed 7, fp32"
        assert told.replace("7", str(seed)) in results[-1]["ran"]
        assert results[-1]["ran"] in stderr
        assert "one step" not in results[-1]["ran"]  # our family's title
    first, again, other = (result["metrics"]["abs_rel"] for result in results)
    assert first == again != other
    code, _, stderr = call(
        capsys, "eval", small, data, *options[:4], "--steps", 1, "--spacing", "leading"
    )
    assert code in (0, 3)
    assert "--spacing trailing starts at the last t" in stderr
