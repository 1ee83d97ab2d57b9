"""``e2e-deploy results``, and ``eval`` of several bundles, from the command line."""

import json

import cv2
import numpy as np
import pytest

from e2e_deploy.cli import main
from e2e_deploy.train.protocol.result import read_results, write_result
from tests.plain_bundle import HW, write_plain_bundle
from tests.train.comparison.made_results import contender, result


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return (stop.value.code or 0, *capsys.readouterr())


def test_files_are_written_and_the_text_goes_to_stdout(tmp_path, capsys):
    write_result(tmp_path / "r", result(contender("single"), pair=(5.0, 97.0)))
    half = contender("half", "onnxruntime", "fp16")
    write_result(tmp_path / "r", result(half, pair=(5.2, 96.8)))
    page, text = tmp_path / "p.html", tmp_path / "p.md"
    code, stdout, stderr = call(
        capsys, "results", tmp_path / "r", "--html", page, "--markdown", text
    )
    assert code == 0
    assert "+0.200/-0.200" in stdout
    assert "Marigold + E2E FT" in stdout
    assert stderr.splitlines() == [f"wrote {page}", f"wrote {text}"]
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert "+0.200/-0.200" in text.read_text()

    code, stdout, _ = call(capsys, "results", tmp_path / "r", "--json")
    assert code == 0
    assert [row["change"] for row in json.loads(stdout)] == [None, pytest.approx([0.2, -0.2])]


def test_a_folder_without_results_is_input_missing(tmp_path, capsys):
    code, stdout, stderr = call(capsys, "results", tmp_path)
    assert (code, stdout) == (5, "")
    assert stderr == f"error: {tmp_path} holds no results; evaluate a model with --protocol first\n"


def test_eval_of_two_precisions_says_what_lies_between_them(tmp_path, capsys):
    """Two bundles of the same weights on a made NYUv2 of normals, in one command, and from its files again."""
    for name in ("single", "half"):
        write_plain_bundle(tmp_path / name, task="normals")
    manifest = tmp_path / "half" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"fp32"', '"fp16"'))
    folder = tmp_path / "sets" / "dsine_eval" / "nyuv2" / "test"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    cv2.imwrite(str(folder / "0_img.png"), rng.integers(0, 256, (*HW, 3), dtype=np.uint8))
    cv2.imwrite(str(folder / "0_normal.png"), rng.integers(1, 256, (*HW, 3), dtype=np.uint8))
    bundles, results = [tmp_path / "half", tmp_path / "single"], tmp_path / "r"
    code, stdout, stderr = call(
        capsys, "eval", *bundles, tmp_path / "sets", "--protocol", "e2e-ft", "--results", results
    )
    assert code == 0, stderr
    shown = [line for line in stdout.splitlines() if line.startswith(str(tmp_path)[:20])]
    assert [line.split()[2] for line in shown] == ["fp32", "fp16"]
    assert shown[0].endswith("reference")
    assert "+0.000/+0.000" in shown[1]
    half, single = read_results(results)
    assert half.pair() == single.pair()
    assert half.contender.checkpoint == single.contender.checkpoint
    assert f"{half.pair()[0]:.2f}/" in shown[1]
    assert "iBims-1 is not in" in stderr
    code, again, _ = call(capsys, "results", results)
    assert code == 0
    assert all(line in again.splitlines() for line in shown)
