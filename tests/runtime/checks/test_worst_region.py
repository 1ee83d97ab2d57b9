import cv2
import numpy as np
import pytest

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.kinds import KINDS
from e2e_deploy.runtime.checks.verify import compare
from e2e_deploy.runtime.checks.worst_region import WorstFrames, error_map, worst_region
from tests.plain_bundle import HW, write_plain_bundle
from tests.runtime.checks.test_verify import change_reference


def brute_force(error, side):
    height, width = min(side, error.shape[0]), min(side, error.shape[1])
    means = {
        (top, left): error[top : top + height, left : left + width].mean()
        for top in range(error.shape[0] - height + 1)
        for left in range(error.shape[1] - width + 1)
    }
    return max(means, key=means.get)


@pytest.mark.parametrize("shape", [(20, 31), (9, 40), (3, 4), (8, 8)])
def test_the_region_has_the_largest_mean_error(rng, shape):
    error = rng.random(shape)
    assert worst_region(error, side=8) == brute_force(error, 8)


def test_one_pixel_without_a_value_is_the_worst():
    error = np.full((40, 40), 5.0)
    error[30, 33] = np.inf
    top, left = worst_region(error, side=8)
    assert top <= 30 < top + 8
    assert left <= 33 < left + 8
    assert worst_region(np.full((10, 10), np.inf), side=4) == (0, 0)


def test_the_error_of_depth_is_a_difference_and_of_normals_an_angle():
    depth = np.array([[0.5, 0.2, np.nan]], dtype=np.float32)
    np.testing.assert_allclose(
        error_map(KINDS["depth"], depth, np.float32([[0.4, 0.4, 0.4]])),
        [[0.1, 0.2, np.inf]],
        atol=1e-7,
    )
    normals = np.float32([[[0, 0, 1], [0, 1, 0], [np.nan, 0, 1]]])
    up = np.float32([[[0, 0, 1]] * 3])
    np.testing.assert_allclose(
        error_map(KINDS["normals"], normals, up), [[0, 90, np.inf]], atol=1e-5
    )


@pytest.mark.parametrize("task", ["depth", "normals"])
def test_the_worst_of_the_stored_frames_is_drawn_with_its_region(tmp_path, task):
    size = (100, 120)
    root = write_plain_bundle(tmp_path / "b", task=task, sizes=[size])
    bundle = open_bundle(root)
    seen = WorstFrames()

    def damaged(graph, backend, kind, frame, result, reference):
        second = (frame == frames[1]).all()
        wrong = result.copy()
        if second:
            wrong[30:90, 50:110] = 0.3
        seen.see(graph, backend, kind, frame, wrong, reference)

    frames, _ = bundle.reference(bundle.manifest.graphs[0])
    compare(bundle, "onnxruntime", watch=damaged)
    ((path, line),) = seen.write(tmp_path / "out")
    assert path == tmp_path / "out" / "worst_onnxruntime_100x120.png"
    assert line.startswith("onnxruntime 100x120: worst 64x64 at row ")
    picture = cv2.imread(str(path))[:, :, ::-1]
    assert picture.shape == (100, 4 * 120 + 3 * 4, 3)
    plain = frames[1].copy()
    shown = picture[:, :120]
    assert (shown[40:80, 60:100] == plain[40:80, 60:100]).all()
    marked = (picture == (255, 0, 255)).all(axis=2)
    rows, columns = np.nonzero(marked[:, :120])
    assert (np.ptp(rows), np.ptp(columns)) == (63, 63)
    assert rows.min() <= 30
    assert rows.max() >= 89
    for i in range(4):
        assert (marked[:, 124 * i : 124 * i + 120] == marked[:, :120]).mean() > 0.99
    difference = picture[:, 3 * 124 :].astype(int).sum(axis=2)
    assert difference[40:80, 60:100].mean() > 5 * difference[5:20, 5:20].mean()


def test_verify_writes_it_beside_its_table(cli, tmp_path):
    root = write_plain_bundle(tmp_path / "b")
    change_reference(root, lambda results: results[1].__imul__(1.01))
    out = tmp_path / "out"
    code, stdout, stderr = cli("verify", root, "--backend", "onnxruntime", "--out", out)
    assert code == 3
    path = out / f"worst_onnxruntime_{HW[0]}x{HW[1]}.png"
    assert stdout.splitlines()[-1] == str(path)
    assert "worst 64x64 at row 0, column 0: mean error" in stderr
    assert path.stat().st_size > 1000
    code, stdout, stderr = cli("verify", root, "--backend", "onnxruntime", "--out", out, "--json")
    assert stdout.rstrip().endswith("]")
    assert str(path) in stderr


def test_a_core_graphs_input_is_shown_as_the_picture_it_is(tmp_path, rng):
    graph = open_bundle(write_plain_bundle(tmp_path / "b")).manifest.graphs[0]
    rgb = rng.uniform(-1, 1, (3, 70, 80)).astype(np.float32)
    depth = rng.random((70, 80)).astype(np.float32)
    seen = WorstFrames()
    seen.see(graph, "onnxruntime", "depth", rgb, depth, depth)
    ((path, _),) = seen.write(tmp_path / "out")
    shown = cv2.imread(str(path))[20:40, 20:40, ::-1]
    expected = np.moveaxis(rgb, 0, -1)[20:40, 20:40] * 127.5 + 127.5
    assert np.abs(shown - expected).max() <= 0.51
