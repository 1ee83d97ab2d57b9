"""``run`` with steps between engine and output: steady depth, metres."""

import json

import cv2
import numpy as np
import pytest

from tests.cli.test_run import clip, one_sentence
from tests.plain_bundle import HW, plain_depth, write_plain_bundle


def test_steady_is_for_depth_of_videos(cli, bundle, picture, tmp_path):
    code, _, stderr = cli("run", picture[0], "--bundle", bundle, "--steady")
    assert code == 2
    assert "--steady is for videos" in one_sentence(stderr)
    normals = write_plain_bundle(tmp_path / "normals", task="normals")
    code, _, stderr = cli("run", clip(tmp_path / "in.mp4"), "--bundle", normals, "--steady")
    assert code == 2
    assert "--steady is for depth" in one_sentence(stderr)


def test_a_steady_video_says_so_in_every_sidecar(cli, bundle, tmp_path):
    source, out = clip(tmp_path / "in.mp4", count=3), tmp_path / "out"
    code, _, _ = cli("run", source, "--bundle", bundle, "--out", out, "--steady")
    assert code == 0
    sides = [json.loads(p.read_text()) for p in sorted(out.glob("*.json"))]
    assert len(sides) == 3
    assert all(set(s["steady"]) >= {"scale", "shift", "residual", "cut"} for s in sides)


def test_metric_points_give_metres(cli, bundle, picture, tmp_path):
    path, rgb = picture
    truth = 1 + 9 * plain_depth(rgb)
    rows = [f"{u},{v},{truth[v, u]}" for v in range(0, HW[0], 4) for u in range(0, HW[1], 4)]
    (tmp_path / "points.csv").write_text("\n".join(rows))
    out = tmp_path / "out"
    code, _, _ = cli(
        "run", path, "--bundle", bundle, "--out", out, "--metric-points", tmp_path / "points.csv"
    )
    assert code == 0
    side = json.loads((out / "photo_depth.json").read_text())
    assert (side["metric"], side["metric_fit"]["inliers"]) == (True, 1.0)
    millimetres = cv2.imread(str(out / "photo_depth.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_allclose(millimetres, 1000 * truth, atol=1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--camera-height", "1"], "needs --intrinsics"),
        (["--camera-height", "1", "--intrinsics", "1,2"], "fx,fy,cx,cy"),
        (["--camera-height", "1", "--metric-points", "p.csv"], "give one"),
        (["--metric-points", "missing.csv"], "missing.csv cannot be read"),
    ],
)
def test_wrong_ways_to_metres(cli, bundle, picture, tmp_path, options, said):
    code, _, stderr = cli("run", picture[0], "--bundle", bundle, "--out", tmp_path / "o", *options)
    assert code == (5 if "missing" in said else 2)
    assert said in one_sentence(stderr)
    assert not (tmp_path / "o").exists()


def test_a_camera_height_gives_metres(cli, bundle, tmp_path):
    """A picture whose grey is the depth of flat ground seen from 1.5 m, looking down by 20 degrees."""
    height, width = HW
    row = (np.arange(height) - height / 2) / 40
    toward = np.cos(np.radians(20)) * row + np.sin(np.radians(20))
    truth = np.minimum(1.5 / np.maximum(toward, 1e-3), 12.0)
    grey = np.rint(255 * (truth - truth.min()) / np.ptp(truth)).astype(np.uint8)
    path, out = tmp_path / "ground.png", tmp_path / "out"
    cv2.imwrite(str(path), np.tile(grey[:, None, None], (1, width, 3)))
    code, _, stderr = cli(
        "run", path, "--bundle", bundle, "--out", out, "--camera-height", "1.5",
        "--camera-pitch", "20", "--intrinsics", f"40,40,{width / 2},{height / 2}",
    )  # fmt: skip
    assert code == 0, stderr
    millimetres = cv2.imread(str(out / "ground_depth.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_allclose(millimetres[:, 0] / 1000, truth, rtol=0.05)


def test_results_without_a_number_are_a_failure(cli, bundle, picture, tmp_path):
    points = tmp_path / "points.csv"
    points.write_text("".join(f"{900 + n},{n},2.0\n" for n in range(9)))
    command = ["run", picture[0], "--bundle", bundle, "--metric-points", points, "--json"]
    code, stdout, stderr = cli(*command, "--out", tmp_path / "out")
    assert code == 1
    assert "1 of 1 results are unknown: 0 metric points lie in the 32x24 picture" in stderr
    assert "100.00% of all pixels are unknown (NaN); 1 of 1 results hold no number" in stderr
    assert "error: no result holds a number" in stderr
    told = json.loads(stdout)["unknown"]
    assert (told["results"], told["share_of_pixels"], told["failed_steps"]) == (1, 1.0, 1)
    assert (cv2.imread(str(tmp_path / "out" / "photo_depth.png"), cv2.IMREAD_UNCHANGED) == 0).all()


def test_a_parity_file_that_cannot_be_written_costs_no_result(
    cli, bundle, picture, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "depth-parity-worst.npz").mkdir()
    monkeypatch.setattr(
        "e2e_deploy.runtime.run.torch_reference",
        lambda engine, bundle: lambda rgb: plain_depth(rgb).astype("f4") + 0.01,
    )
    code, stdout, stderr = cli(
        "run", picture[0], "--bundle", bundle, "--out", "o", "--parity-every", "1", "--json"
    )
    told = json.loads(stdout)
    assert code == 1, stderr
    assert "the worst live frame is not kept: depth-parity-worst.npz could not be" in stderr
    assert told["parity"]["not_saved"]
    assert len(told["files"]) == 3
