from dataclasses import replace

import numpy as np
import pytest
import torch

from e2e_deploy.errors import DataError, UsageError
from e2e_deploy.train.pretraining.views import Pictures, View, load_pictures, random_view
from tests.train.fixtures import write_folder


@pytest.fixture
def pictures():
    """Eight smooth pictures whose depth is their brightness, and constant normals."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32] / 31
    ramps = [a * x + b * y + c for a, b, c in rng.uniform(-0.5, 0.5, (8, 3))]
    rgb = np.stack([np.clip(128 + 100 * ramp, 0, 255)[None].repeat(3, 0) for ramp in ramps])
    normals = np.full((8, 3, 32, 32), 128.0)
    normals[:, 2] = 255
    rgb, normals = (torch.from_numpy(a.astype(np.uint8)) for a in (rgb, normals))
    depth = (rgb[:, :1].float() / 255).half()
    return Pictures((32, 32), rgb, {"depth": depth, "normals": normals})


def test_a_flipped_batch_mirrors_pixels_and_the_x_of_normals(pictures):
    indices = torch.arange(8)
    mirrored = pictures.whole._replace(flip=True)
    plain, flipped = (pictures.batch("rgb", indices, view) for view in (pictures.whole, mirrored))
    assert torch.equal(flipped.flip(3), plain)
    pictures.results["normals"][:, 0] = 255
    assert (pictures.batch("normals", indices, pictures.whole)[:, 0] > 0.7).all()
    assert (pictures.batch("normals", indices, mirrored)[:, 0] < -0.7).all()


def test_a_view_is_the_window_at_the_views_size(pictures):
    view = View(top=8, left=4, height=16, width=16, flip=False)
    small = replace(pictures, view_hw=(16, 16))
    window = small.batch("rgb", torch.arange(8), view)
    expected = pictures.rgb[:, :, 8:24, 4:20].float() / 127.5 - 1
    torch.testing.assert_close(window, expected)
    depth = small.batch("depth", torch.arange(8), view).flatten(1)
    torch.testing.assert_close(depth.amin(1), torch.full((8,), -1.0))
    torch.testing.assert_close(depth.amax(1), torch.full((8,), 1.0))
    assert small.batch("rgb", torch.arange(8), view._replace(height=32, width=24, top=0)).shape == (
        8,
        3,
        16,
        16,
    )


def test_random_views_stay_inside_and_differ():
    generator = torch.Generator().manual_seed(0)
    views = [random_view((24, 40), generator) for _ in range(200)]
    for view in views:
        assert 0 <= view.top <= 24 - view.height
        assert 0 <= view.left <= 40 - view.width
        assert 12 <= view.height <= 24
    assert len(set(views)) > 100
    assert 60 < sum(view.flip for view in views) < 140


def test_an_absent_split_is_refused(tmp_path):
    root = write_folder(tmp_path / "set")
    with pytest.raises(UsageError, match="no split 'test'"):
        load_pictures(root, (16, 16), split="test")


def test_pictures_are_read_evenly_and_damaged_ones_left_out(tmp_path):
    root = write_folder(tmp_path / "set", num_samples=6)
    (root / "train" / "depth" / "s002.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"s002\.png"):
        load_pictures(root, (16, 16))
    pictures = load_pictures(root, (16, 16), limit=3, on_bad="skip")  # 0, 2 and 4
    assert pictures.rgb.shape == (2, 3, 32, 32)
    assert {k: v.dtype for k, v in pictures.results.items()} == {
        "depth": torch.float16,
        "normals": torch.uint8,
    }
    bare = write_folder(tmp_path / "bare", num_samples=2, normals_format=None)
    with pytest.raises(DataError, match="pretraining needs both"):
        load_pictures(bare, (16, 16))


def test_a_near_view_of_a_deep_picture_has_no_steps(tmp_path):
    """A ramp over a hundredth of the picture's depth, which 256 levels would cut into three."""
    depth = np.full((32, 32), 1.0, np.float16)
    depth[:16, :16] = np.linspace(0, 0.01, 16)
    rgb = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    normals = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    pictures = Pictures(
        (16, 16), rgb, {"depth": torch.from_numpy(depth)[None, None], "normals": normals}
    )
    view = View(top=0, left=0, height=16, width=16, flip=False)
    seen = pictures.batch("depth", torch.arange(1), view)
    expected = torch.linspace(-1, 1, 16).expand(1, 3, 16, 16)
    torch.testing.assert_close(seen, expected, atol=0.005, rtol=0)
