import cv2
import numpy as np
import pytest
import torch

from e2e_deploy.errors import DataError, UsageError
from e2e_deploy.train.data.batches import MixedBatches, Part, collate, flip
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.train.data.sample import Sample, depth_target
from e2e_deploy.train.objectives.losses import depth_loss, normals_loss
from tests.train.fixtures import plane_scene, write_folder


@pytest.fixture
def parts(tmp_path):
    indoor = write_folder(tmp_path / "indoor", num_samples=7)
    street = write_folder(tmp_path / "street", num_samples=3, size=(40, 96), name="street")
    return [
        Part(FolderDataset(indoor), 9, (32, 40)),
        Part(FolderDataset(street), 1, (24, 64)),
    ]


def batches(parts, **changes):
    return MixedBatches(parts, **({"batch_size": 2, "per_step": 3, "seed": 1} | changes))


def equal(one, other):
    tensors = ("rgb", "depth_m", "normals", "valid")
    return one["paths"] == other["paths"] and all(
        torch.equal(one[key], other[key]) for key in tensors
    )


def leaning_sample():
    scene = plane_scene()
    rgb = np.clip(scene.color * 60, 0, 255).astype(np.uint8)
    valid = scene.entities != -1
    return Sample(rgb=rgb, depth_m=scene.depth_m, normals=scene.normals, valid=valid, path="p")


def test_a_batch_is_homogeneous_and_laid_out_as_promised(parts):
    sizes = set()
    for index in range(20):
        batch = batches(parts)[index]
        folders = {path.split("/train/")[0] for path in batch["paths"]}
        assert len(folders) == 1
        sizes.add(tuple(batch["rgb"].shape))
        height, width = batch["rgb"].shape[2:]
        assert batch["rgb"].dtype == batch["depth_m"].dtype == batch["normals"].dtype
        assert batch["rgb"].dtype == torch.float32
        assert batch["rgb"].min() >= -1
        assert 0 < batch["rgb"].max() <= 1
        assert batch["depth_m"].shape == batch["valid"].shape == (2, 1, height, width)
        assert batch["normals"].shape == (2, 3, height, width)
        assert batch["valid"].dtype == torch.bool
        assert batch["bad"] == []
    assert sizes == {(2, 3, 32, 40), (2, 3, 24, 64)}


def test_workers_do_not_change_the_order(parts):
    mixed = batches(parts)
    expected = [mixed.batch_at(step, slot) for step in range(2, 6) for slot in range(3)]
    for workers in (0, 2):
        got = list(mixed.loader(2, 6, workers=workers))
        assert len(got) == 12
        assert all(equal(a, b) for a, b in zip(got, expected, strict=True))


def test_mirroring_turns_the_normals_x():
    sample = leaning_sample()
    mirrored = flip(sample)
    assert np.array_equal(mirrored.rgb, sample.rgb[:, ::-1])
    assert np.array_equal(mirrored.depth_m, sample.depth_m[:, ::-1])
    assert np.array_equal(mirrored.valid, sample.valid[:, ::-1])
    assert np.array_equal(mirrored.normals, sample.normals[:, ::-1] * [-1, 1, 1])
    twice = flip(mirrored)
    assert np.array_equal(twice.normals, sample.normals)


def test_mirrored_depth_and_mirrored_normals_still_agree():
    # A wall that leans right has smaller depth on one side; mirrored, on the other.
    from e2e_deploy.train.data.normals_from_depth import normals_from_depth
    from e2e_deploy.train.preparation.hypersim import hypersim_camera

    mirrored = flip(leaning_sample())
    from_depth = normals_from_depth(np.ascontiguousarray(mirrored.depth_m), hypersim_camera(48, 64))
    assert np.abs(from_depth - mirrored.normals)[2:-2, 2:-2].max() < 1e-3


def test_the_target_is_clamped_to_its_quantiles():
    depth = np.arange(1, 101, dtype=np.float32).reshape(10, 10)
    valid = depth > 50
    clamped, mask = depth_target(depth, valid)
    near, far = np.quantile(np.arange(51, 101), [0.02, 0.98])
    assert clamped[valid].min() == pytest.approx(near)
    assert clamped[valid].max() == pytest.approx(far)
    assert (clamped[~valid] == np.float32(far)).all()
    assert clamped[7, 0] == 71
    assert np.array_equal(mask, valid)


def test_colour_reaches_from_minus_one_to_one():
    sample = leaning_sample()
    sample.rgb[0, 0], sample.rgb[0, 1] = (0, 255, 51), (255, 0, 204)
    got = collate([sample])["rgb"][0, :, 0, :2]
    assert got.T.tolist() == [
        pytest.approx([-1, 1, -0.6]),
        pytest.approx([1, -1, 0.6]),
    ]


def test_a_flat_or_empty_image_has_an_empty_mask():
    flat = np.full((4, 4), 3, np.float32)
    clamped, mask = depth_target(flat, flat > 0)
    assert not mask.any()
    assert (clamped == 3).all()
    clamped, mask = depth_target(flat * np.nan, flat < 0)
    assert not mask.any()
    assert (clamped == 0).all()


def test_a_batch_feeds_the_losses():
    batch = collate([leaning_sample(), flip(leaning_sample())])
    # Normals and depth as stored are a perfect prediction; the clamp costs depth a little.
    depth = batch["depth_m"] / 10 - 0.5
    assert depth_loss(depth, batch["depth_m"], batch["valid"]).loss < 1e-6
    got = normals_loss(batch["normals"], batch["normals"], batch["valid"])
    assert got.loss < 1e-3
    assert got.num_valid == 2 * (48 * 64 - 24)


def test_a_bad_sample_is_replaced_and_named_or_stops(parts):
    bad_file = parts[0].dataset.file("depth", "s003")
    bad_file.write_bytes(b"not a png")
    named = [line for index in range(20) for line in batches(parts)[index]["bad"]]
    assert named
    assert all(str(bad_file) in line for line in named)
    for index in range(20):
        batch = batches(parts)[index]
        assert len(batch["paths"]) == 2
        assert not any(path.endswith("indoor/train/rgb/s003.png") for path in batch["paths"])
    stopping = batches(parts, on_bad="stop")
    first = next(index for index in range(20) if batches(parts)[index]["bad"])
    with pytest.raises(DataError, match=r"s003\.png"):
        stopping[first]


def test_an_error_of_a_reading_process_is_the_error_itself(parts):
    bad_file = parts[0].dataset.file("depth", "s003")
    bad_file.write_bytes(b"not a png")
    with pytest.raises(DataError) as caught:
        list(batches(parts, on_bad="stop").loader(0, 7, workers=1))
    assert str(caught.value).startswith(str(bad_file))
    assert "Traceback" not in str(caught.value)


def test_nothing_readable_is_an_error(parts):
    for stem in parts[1].dataset.stems:
        parts[1].dataset.file("rgb", stem).write_bytes(b"")
    with pytest.raises(DataError, match="none of its 3 samples can be read"):
        batches(parts[1:])[0]


def test_sizes_must_suit_the_network(parts, tmp_path):
    with pytest.raises(UsageError, match=r"\(30, 40\) must be a multiple of 8"):
        batches([Part(parts[0].dataset, 1, (30, 40))])
    odd = FolderDataset(write_folder(tmp_path / "odd", size=(30, 40)))
    with pytest.raises(DataError, match="do not make a batch"):
        batches([Part(odd, 1)])[0]
    assert batches([Part(parts[0].dataset, 1)])[0]["rgb"].shape == (2, 3, 48, 64)


def test_missing_normals_are_refused_where_needed_and_zero_elsewhere(tmp_path):
    plain = write_folder(tmp_path, normals_format=None)
    with pytest.raises(UsageError, match="has no normals"):
        FolderDataset(plain, task="normals")
    assert batches([Part(FolderDataset(plain), 1)])[0]["normals"].abs().max() == 0


def test_the_mask_is_that_of_the_task():
    sample = leaning_sample()
    sample.valid[:, :32] = False
    sample.normals[:24] = 0
    depth, normals = (collate([sample], task=task)["valid"][0, 0] for task in ("depth", "normals"))
    assert np.array_equal(depth, sample.valid)
    assert normals.sum() == 24 * 64
    assert not normals[:24].any()


def test_an_image_without_truth_is_an_image_without_mask(parts):
    for stem in parts[0].dataset.stems:
        cv2.imwrite(str(parts[0].dataset.file("depth", stem)), np.zeros((48, 64), np.uint16))
    batch = batches(parts[:1], on_bad="stop")[0]
    assert batch["bad"] == []
    assert not batch["valid"].any()


def test_ranks_share_one_step(parts):
    alone = batches(parts, per_step=4)
    ranks = [batches(parts, per_step=4, world=2, rank=rank) for rank in range(2)]
    together = [rank.batch_at(3, slot)["paths"] for rank in ranks for slot in range(2)]
    assert sorted(together) == sorted(alone.batch_at(3, slot)["paths"] for slot in range(4))
