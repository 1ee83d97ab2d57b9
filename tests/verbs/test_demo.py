"""What a newcomer sees: the demo without torch, and where the packages with photo and clip are not installed."""

import cv2
import numpy as np
import pytest

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.runtime.sources.video_source import VideoSource
from e2e_deploy.verbs import demo as verb
from e2e_deploy.verbs import show


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(verb, "CLIP_FRAMES", 3)


@pytest.fixture
def without(monkeypatch):
    """without(*names): these packages are not installed."""

    def hide(*names):
        for module in (verb, show):
            real = module.find_spec
            hidden = lambda name, real=real: None if name in names else real(name)  # noqa: E731
            monkeypatch.setattr(module, "find_spec", hidden)

    return hide


def test_without_torch_the_packaged_bundle_is_run(cli, short, without, tmp_path):
    without("torch", "skimage", "skvideo")
    code, stdout, stderr = cli("demo", "--out", tmp_path / "demo")
    assert code == 0, stderr
    assert "pip install 'e2e-deploy[export]'" in stderr
    table = stdout.splitlines()
    assert table[0] == "depth:"
    assert table[2].endswith("pass")
    assert "Motorcycle" not in stdout
    assert table[-2:] == [str(tmp_path / "demo" / name) for name in ("sheet.png", "depth.mp4")]
    # Two photos beside their depth, and a clip whose frames stand beside theirs.
    assert cv2.imread(table[-2]).shape == (480, 640, 3)
    frames = list(VideoSource(tmp_path / "demo" / "depth.mp4"))
    assert [frame.hw for frame in frames] == [(240, 640)] * 3
    assert open_bundle(tmp_path / "demo" / "depth").manifest.task == "depth"


@pytest.mark.slow
def test_turbo_stands_beside_depth(short, monkeypatch, tmp_path):
    monkeypatch.setattr(verb, "BUNDLED_NAMES", ("depth", "turbo"))
    monkeypatch.setattr(verb, "ROUNDS", 1)
    report = verb.demo(tmp_path / "demo")
    assert list(report.bundles) == list(report.latency_ms) == ["depth", "turbo"]
    assert all(v.failures == [] for verdicts in report.verdicts.values() for v in verdicts)
    assert min(report.latency_ms.values()) > 0
    if show.find_motorcycle() is not None:
        assert max(score.abs_rel for score in report.scores.values()) < report.constant_abs_rel
    assert cv2.imread(str(report.sheet)).shape[1] % 320 == 0


def test_the_pan_moves_without_a_jump(tmp_path):
    frames = [frame.rgb.astype(float) for frame in show.PhotoPan(12)]
    assert {frame.shape for frame in frames} == {(240, 320, 3)}
    steps = [np.abs(a - b).mean() for a, b in zip(frames, [*frames[1:], frames[0]], strict=True)]
    assert min(steps) > 0
    assert max(steps) < 100
