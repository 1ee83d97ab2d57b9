from dataclasses import replace

import numpy as np
import pytest
import torch

from e2e_deploy.errors import UsageError
from e2e_deploy.model.checkpoint import open_checkpoint
from e2e_deploy.model.loading import load_model
from e2e_deploy.train.pretrain import (
    Pictures,
    View,
    encode_all,
    load_pictures,
    pretrain_autoencoder,
    pretrain_unet,
    random_view,
)
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
    return Pictures((32, 32), rgb, {"depth": rgb.clone(), "normals": normals})


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


def test_both_stages_learn(small, pictures):
    torch.manual_seed(0)
    model = load_model(open_checkpoint(small))
    images = pictures.batch("rgb", torch.arange(8), pictures.whole)

    def reproduction_error():
        with torch.no_grad():
            latent = model.vae.encode(images).latent_dist.mean
            return float((model.vae.decode(latent).sample - images).abs().mean())

    before = reproduction_error()
    pretrain_autoencoder(model, pictures, steps=60, batch=4, lr=5e-3)
    assert reproduction_error() < 0.6 * before
    scaled = encode_all(model, pictures, "rgb", [pictures.whole])
    assert 0.3 < float(scaled.std()) < 3
    assert model.vae.config.scaling_factor == model.scaling_factor

    targets = encode_all(model, pictures, "depth", [pictures.whole])

    def latent_error():
        with torch.no_grad():
            return float((model.predict_x0(scaled) - targets).abs().mean())

    frozen = {k: v.clone() for k, v in model.vae.state_dict().items()}
    before = latent_error()
    pretrain_unet(model, pictures, steps=60, batch=4, lr=3e-3)
    assert latent_error() < 0.7 * before
    assert all(torch.equal(v, frozen[k]) for k, v in model.vae.state_dict().items())


def test_an_absent_split_is_refused(tmp_path):
    root = write_folder(tmp_path / "set")
    with pytest.raises(UsageError, match="no split 'test'"):
        load_pictures(root, (16, 16), split="test")
