"""The examples with a loop of their own: OpenCV's, asyncio's, of two cameras, with a LiDAR; and others' arrays."""

import sys
import time
from itertools import pairwise

import cv2
import numpy as np
import pytest

import e2e_deploy as e2e
from tests.plain_bundle import HW, plain_depth, write_plain_bundle


@pytest.fixture
def frames(tmp_path, rng):
    """frames(name, count): RGB [count, H, W, 3], and the pictures as OpenCV reads them one after the other."""

    def written(name, count, hw=HW):
        (tmp_path / name).mkdir()
        rgb = rng.integers(0, 256, (count, *hw, 3), dtype=np.uint8)
        for index, each in enumerate(rgb):
            cv2.imwrite(str(tmp_path / name / f"{index:03}.png"), each[..., ::-1])
        return rgb, tmp_path / name / "%03d.png"

    return written


def colours(rgb):
    grey = np.round(255 * (1 - plain_depth(rgb))).astype(np.uint8)
    return np.hstack([rgb[..., ::-1], cv2.applyColorMap(grey, cv2.COLORMAP_TURBO)])


class TestOpenCvLoop:
    def test_pictures_of_every_frame(self, run, bundle, frames, tmp_path):
        rgb, source = frames("clip", 3)
        out = tmp_path / "made" / "here"
        assert "3 frames; onnxruntime" in run("opencv_loop.py", source, out, bundle)
        for path, each in zip(sorted(out.iterdir()), rgb, strict=True):
            assert (cv2.imread(str(path)) == colours(each)).all()

    def test_its_window_until_q(self, run, bundle, frames, monkeypatch):
        shown = []
        monkeypatch.setattr(cv2, "imshow", lambda title, picture: shown.append(picture))
        monkeypatch.setattr(cv2, "waitKey", lambda ms: ord("q") if len(shown) == 2 else -1)
        rgb, source = frames("clip", 4)
        run("opencv_loop.py", source, "", bundle)
        assert len(shown) == 2
        assert (shown[1] == colours(rgb[1])).all()

    def test_no_such_camera(self, run):
        with pytest.raises(SystemExit, match="cannot open"):
            run("opencv_loop.py", "/no/such/file.mp4")


class SlowEngine:
    """Each picture takes until the camera has read three more."""

    def __init__(self, monkeypatch, count):
        self.read = 0
        predict = e2e.Engine.predict
        capture = cv2.VideoCapture

        class Camera:
            def __init__(camera, source):  # noqa: N805
                camera.real = capture(source)

            def isOpened(camera):  # noqa: N802, N805
                return camera.real.isOpened()

            def get(camera, what):  # noqa: N805
                assert what == cv2.CAP_PROP_FPS
                return 500.0

            def read(camera):  # noqa: N805
                self.read += 1
                return camera.real.read()

        def slow(engine, picture):
            until = min(self.read + 3, count + 1)  # the last one finds the end
            while self.read < until:
                time.sleep(0.001)
            return predict(engine, picture)

        monkeypatch.setattr(cv2, "VideoCapture", Camera)
        monkeypatch.setattr(e2e.Engine, "predict", slow)


class TestAsyncLoop:
    def test_only_the_newest_frame_and_always_the_last(self, run, bundle, frames, monkeypatch):
        rgb, source = frames("clip", 20)
        SlowEngine(monkeypatch, len(rgb))
        lines = run("async_loop.py", source, bundle).splitlines()
        indices = [int(line.partition(":")[0]) for line in lines]
        assert indices[-1] == len(rgb) - 1
        assert all(after - before >= 2 for before, after in pairwise(indices[:-1]))
        for index, line in zip(indices, lines, strict=True):
            middle = np.array_split(np.array_split(plain_depth(rgb[index]), 3)[1], 3, axis=1)[1]
            assert f"{index}: {np.median(middle):.3f}, " in line

    def test_no_such_camera(self, run, bundle):
        with pytest.raises(SystemExit, match="cannot open"):
            run("async_loop.py", "/no/such/file.mp4", bundle)


class TestTwoCameras:
    def test_one_call_for_both(self, run, frames, tmp_path):
        pair = write_plain_bundle(tmp_path / "pair", batch=2)
        (left, left_source), (right, right_source) = frames("left", 3), frames("right", 2)
        lines = run("two_cameras.py", left_source, right_source, pair).splitlines()
        assert len(lines) == 2  # until one of them ends
        for index, line in enumerate(lines):
            near = [np.mean(plain_depth(each[index]) < 0.3) for each in (left, right)]
            assert (
                line == f"{index}: near are {near[0]:.0%} of the first, {near[1]:.0%} of the second"
            )

    def test_what_does_not_go_together(self, run, bundle, frames, tmp_path):
        pair = write_plain_bundle(tmp_path / "pair", batch=2)
        sources = frames("left", 1)[1], frames("right", 1, (24, 40))[1]
        with pytest.raises(SystemExit, match=r"differ in size: \(24, 32\) and \(24, 40\)"):
            run("two_cameras.py", *sources, pair)
        with pytest.raises(SystemExit, match="takes 1 at once; export one with --batch 2"):
            run("two_cameras.py", *sources, bundle)


class TestDlpack:
    SAYS = ("(24, 32)", "memory of one's own: True", "mean 0.5000")  # the upper half is white

    def test_numpy_without_torch(self, run, bundle, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", None)
        out = run("dlpack.py", "numpy", bundle)
        assert out.startswith("numpy.ndarray")
        assert all(said in out for said in self.SAYS)

    def test_torch(self, run, bundle):
        pytest.importorskip("torch")
        out = run("dlpack.py", "torch", bundle)
        assert out.startswith("torch.Tensor")
        assert all(said in out for said in self.SAYS)


class TestLidar:
    K = np.array([[30.0, 0, 16], [0, 30, 12], [0, 0, 1]])
    # Of a LiDAR above the camera, whose x is ahead and z up.
    TO_CAMERA = np.array([[0.0, -1, 0, 0], [0, 0, -1, -0.2], [1, 0, 0, 0.1], [0, 0, 0, 1]])

    def points_of(self, metres):
        """What the LiDAR saw of a map of metres along the camera's axis."""
        v, u = (grid.ravel() for grid in np.mgrid[: metres.shape[0], : metres.shape[1]])
        in_camera = (np.stack([u, v, np.ones_like(u)], axis=1) @ np.linalg.inv(self.K).T) * (
            metres[v, u, None]
        )
        homogeneous = np.column_stack([in_camera, np.ones(len(u))])
        return (homogeneous @ np.linalg.inv(self.TO_CAMERA).T)[:, :3]

    def test_metres_of_every_frame(self, run, bundle, rng, tmp_path):
        folder = tmp_path / "drive"
        folder.mkdir()
        np.savez(tmp_path / "calibration.npz", K=self.K, lidar_to_camera=self.TO_CAMERA)
        truths = {}
        scales = {"000": 4.0, "001": 9.0}  # the model's changes from frame to frame
        for name, scale in scales.items():
            rgb = rng.integers(0, 256, (*HW, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / f"{name}.png"), rgb[..., ::-1])
            truths[name] = 1 + scale * plain_depth(rgb)
            behind = rng.normal(0, 1, (50, 3)) - [30, 0, 0]
            np.save(folder / f"{name}.npy", np.concatenate([self.points_of(truths[name]), behind]))
        cv2.imwrite(str(folder / "002.png"), rgb)
        np.save(folder / "002.npy", behind)
        lines = run("lidar.py", folder, tmp_path / "calibration.npz", bundle).splitlines()
        assert lines[0] == "000.png: 100% of 768 within 0.00 m"
        assert lines[2].startswith("002.png: 0 metric points lie in the 32x24 picture")
        for name, truth in truths.items():
            assert np.abs(np.load(folder / f"{name}.metres.npy") - truth).max() < 1e-4
        assert not (folder / "002.metres.npy").exists()
