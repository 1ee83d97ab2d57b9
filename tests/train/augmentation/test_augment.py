import dataclasses

import numpy as np
import pytest
import torch

from e2e_deploy.errors import UsageError
from e2e_deploy.train.augmentation.augment import Augmentation
from e2e_deploy.train.config.reading import parse_config
from e2e_deploy.train.config.settings import AugmentConfig
from e2e_deploy.train.data.batches import MixedBatches, Part
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.train.data.normals_from_depth import normals_from_depth
from e2e_deploy.train.data.sample import Sample
from e2e_deploy.train.pretraining.views import load_pictures
from e2e_deploy.train.training import train_model
from tests.train.fixtures import plane_scene, write_folder
from tests.train.small_runs import equal, run_table, weights

EVERYTHING = AugmentConfig(colour=1, blur=0.5, noise=1, jpeg=0.5, smallest_view=0.4)


class Drawn:
    """A generator that draws what it is told."""

    def __init__(self, share, down, right):
        self.share, self.corner = share, np.array([down, right])

    def uniform(self, _low, _high):
        return self.share

    def random(self, count=None):
        return 1.0 if count is None else self.corner


def batches(root, change, **options):
    parts = [Part(FolderDataset(root), 1, (32, 40))]
    made = {"batch_size": 2, "per_step": 2, "seed": 5} | options
    return MixedBatches(parts, change=change, **made)


def arrays(batch):
    return [batch[key] for key in ("rgb", "depth_m", "normals", "valid")]


def same(one, other):
    pairs = zip(arrays(one), arrays(other), strict=True)
    return one["paths"] == other["paths"] and all(torch.equal(a, b) for a, b in pairs)


def test_the_normals_of_a_windows_depth_are_its_normals():
    """With the window's own principal point, which is all that cropping changes in a camera."""
    from e2e_deploy.train.preparation.hypersim import hypersim_camera

    scene = plane_scene()
    rgb = np.zeros((48, 64, 3), np.uint8)
    sample = Sample(
        rgb=rgb, depth_m=scene.depth_m, normals=scene.normals, valid=scene.depth_m > 0, path="p"
    )
    augmentation = Augmentation(AugmentConfig(smallest_view=0.5))
    got = augmentation(sample, (24, 32), Drawn(0.5, 0.999, 0.3))
    assert got.normals is not None
    np.testing.assert_array_equal(got.depth_m, scene.depth_m[24:48, 9:41])
    camera = hypersim_camera(48, 64)
    moved = dataclasses.replace(camera, cx=camera.cx - 9, cy=camera.cy - 24)
    assert np.abs(normals_from_depth(got.depth_m, moved) - got.normals)[2:-2, 2:-2].max() < 1e-3
    assert np.abs(normals_from_depth(got.depth_m, camera) - got.normals)[2:-2, 2:-2].max() > 0.05


@pytest.mark.parametrize("size", [(32, 40), None])
def test_picture_and_truths_show_the_same_window(size):
    """The picture, its depth, its mask and its matte are one ramp; after window and scaling they still are."""
    y, x = np.mgrid[:96, :128].astype(np.float32)
    for ramp in (x * 1.8, y * 2.4):
        sample = Sample(
            rgb=np.rint(ramp)[..., None].repeat(3, -1).astype(np.uint8),
            depth_m=ramp + 1,
            normals=None,
            valid=np.ones((96, 128), bool),
            path="p",
            mask=(ramp / 255)[..., None].repeat(3, -1),
            matte=ramp / 255,
        )
        spans = []
        for seed in range(12):
            augmentation = Augmentation(AugmentConfig(smallest_view=0.4))
            got = augmentation(sample, size, np.random.default_rng(seed))
            assert got.valid.shape == (size or (96, 128))
            assert got.matte is not None
            assert got.mask is not None
            seen = got.rgb[..., 0].astype(np.float32)
            for truth in (got.depth_m - 1, got.matte * 255, got.mask[..., 0] * 255):
                assert np.abs(seen - truth).max() < 6  # a pixel or two of the ramp
            spans.append(float(np.ptp(seen)))
        assert min(spans) > 0.35 * 228
        assert max(spans) > 1.4 * min(spans)


def test_only_the_picture_changes_without_windows(tmp_path):
    root = write_folder(tmp_path / "set", num_samples=5)
    plain, changed = (
        batches(root, change)[3]
        for change in (None, Augmentation(AugmentConfig(colour=1, blur=1, noise=1, jpeg=1)))
    )
    assert [torch.equal(a, b) for a, b in zip(arrays(plain), arrays(changed), strict=True)] == [
        False,
        *[True] * 3,
    ]
    assert same(plain, batches(root, Augmentation(AugmentConfig()))[3])


def test_chances_are_shares_of_the_pictures(tmp_path):
    rng, picture = np.random.default_rng(0), np.full((16, 16, 3), 90, np.uint8)
    augmentation = Augmentation(AugmentConfig(noise=0.3))
    changed = [
        not np.array_equal(augmentation.photographed(picture, rng), picture) for _ in range(400)
    ]
    assert 0.23 < np.mean(changed) < 0.37


def test_what_is_drawn_is_that_of_the_image_and_its_epoch(tmp_path):
    root = write_folder(tmp_path / "set", num_samples=4)
    alone = batches(root, Augmentation(EVERYTHING))
    expected = [alone.batch_at(step, slot) for step in range(3) for slot in range(2)]
    for workers in (0, 2):  # processes that read, and a run that goes on at step 1
        got = list(alone.loader(1, 3, workers=workers))
        assert all(same(a, b) for a, b in zip(got, expected[2:], strict=True))
    ranks = [batches(root, Augmentation(EVERYTHING), per_step=2, world=2, rank=r) for r in (0, 1)]
    assert all(same(ranks[r].batch_at(1, 0), alone.batch_at(1, r)) for r in (0, 1))
    pictures = {}
    for batch in expected:  # three epochs of four images
        for path, rgb in zip(batch["paths"], batch["rgb"], strict=True):
            pictures.setdefault(path, set()).add(rgb.numpy().tobytes())
    assert [len(seen) for seen in pictures.values()] == [3] * 4


def test_a_run_that_goes_on_draws_what_an_unbroken_one_does(tmp_path):
    table = run_table(tmp_path, augment=dataclasses.asdict(EVERYTHING))
    whole = train_model(parse_config(table | {"run": table["run"] | {"out": str(tmp_path / "w")}}))
    broken = parse_config(table)
    train_model(broken, steps=2)
    assert equal(weights(train_model(broken).model), weights(whole.model))
    del table["augment"]
    with pytest.raises(UsageError, match=r"augment\.blur"):
        train_model(parse_config(table))


def test_pretraining_augments_the_pictures_of_its_views_alone(tmp_path):
    root = write_folder(tmp_path / "set", num_samples=4)
    plain = load_pictures(root, (32, 40))
    pictures = load_pictures(root, (32, 40), augmentation=Augmentation(EVERYTHING))
    indices = torch.arange(4)

    def seen(of, kind, seed):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return of.batch(kind, indices, of.whole, generator)

    for kind in ("depth", "normals"):
        assert torch.equal(seen(pictures, kind, 0), seen(plain, kind, None))
    assert torch.equal(seen(pictures, "rgb", None), seen(plain, "rgb", None))
    assert torch.equal(seen(pictures, "rgb", 1), seen(pictures, "rgb", 1))
    changed = seen(pictures, "rgb", 1)
    assert (changed - seen(pictures, "rgb", 2)).abs().amax((1, 2, 3)).min() > 0.05
    assert changed.abs().max() <= 1
    assert changed.dtype == torch.float32


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({}, "changes nothing"),
        ({"smallest_view": 1.0}, "changes nothing"),
        ({"smallest_view": 0.05}, r"augment\.smallest_view"),
        ({"colour": 1.5}, r"augment\.colour"),
        ({"color": 0.5}, r"augment\.color"),
    ],
)
def test_settings_that_cannot_be_meant_are_told(tmp_path, table, told):
    with pytest.raises(UsageError, match=told):
        parse_config(run_table(tmp_path) | {"augment": table})
