import cv2
import numpy as np
import pytest

from e2e_deploy.errors import DataError, UsageError
from e2e_deploy.train.accuracy import measure_accuracy
from e2e_deploy.train.data.batches import collate, flip
from e2e_deploy.train.data.check import check_data
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.train.data.folder_spec import load_spec
from e2e_deploy.train.data.resize import fit, resize
from tests.train.fixtures import write_pictures

SIZE = (16, 24)


@pytest.mark.parametrize("form", ["png8", "png16", "npy"])
def test_masks_and_mattes_are_read_as_shares(tmp_path, form):
    root = write_pictures(tmp_path, mask=form, matte=form)
    assert load_spec(root).mask_format == form
    sample = FolderDataset(root).read(1)
    steps = {"png8": 255, "png16": 65535, "npy": 1e6}[form]
    np.testing.assert_allclose(sample.mask[0, [0, 23]], [[1, 0.2, 0], [0, 0, 1]], atol=1 / steps)
    np.testing.assert_allclose(sample.matte[3], np.linspace(0, 1, 24), atol=1 / steps)
    assert sample.mask.dtype == sample.matte.dtype == np.float32
    assert sample.known("segmentation").all()
    assert sample.known("matting").all()
    assert not sample.known("depth").any()


def test_a_task_reads_its_truth_alone(tmp_path):
    root = write_pictures(tmp_path)
    (root / "train" / "matte" / "s1.png").unlink()
    assert len(FolderDataset(root, task="segmentation")) == 3
    assert FolderDataset(root, task="matting").stems == ["s0", "s2"]
    assert FolderDataset(root, task="segmentation").read(0).matte is None
    with pytest.raises(UsageError, match="has no depth"):
        FolderDataset(root, task="disparity")
    with pytest.raises(UsageError, match="has no appearance"):
        FolderDataset(root, task="appearance")


def test_wrong_files_are_a_sentence(tmp_path):
    root = write_pictures(tmp_path, mask="npy", matte="png8")
    np.save(root / "train" / "mask" / "s0.npy", np.full((*SIZE, 3), 1.5, np.float32))
    np.save(root / "train" / "mask" / "s1.npy", np.zeros(SIZE, np.float32))
    cv2.imwrite(str(root / "train" / "matte" / "s2.png"), np.zeros(SIZE, np.uint16))
    dataset = FolderDataset(root, task="segmentation")
    with pytest.raises(DataError, match=r"s0.npy: its values go from 1.5 to 1.5"):
        dataset.read(0)
    with pytest.raises(DataError, match=r"the mask is \(16, 24\), expected \(16, 24, 3\)"):
        dataset.read(1)
    with pytest.raises(DataError, match="expected png8, got uint16"):
        FolderDataset(root, task="matting").read(2)


def test_unknown_pixels_are_nan(tmp_path):
    root = write_pictures(tmp_path, mask="npy", matte="npy")
    file = root / "train" / "mask" / "s0.npy"
    values = np.load(file)
    values[2, 3, 1] = np.nan
    np.save(file, values)
    sample = FolderDataset(root).read(0)
    known = sample.known("segmentation")
    assert (known.sum(), known[2, 3]) == (16 * 24 - 1, False)
    batch = collate([sample], task="segmentation")
    assert batch["picture"].isfinite().all()
    assert not batch["valid"][0, 0, 2, 3]


def test_batches_hold_the_picture_of_their_task_in_the_range_of_the_decoder(tmp_path):
    sample = FolderDataset(write_pictures(tmp_path)).read(0)
    masks, mattes, depth = (
        collate([sample], task=task)["picture"] for task in ("segmentation", "matting", "depth")
    )
    assert (masks.shape, mattes.shape, depth.shape) == ((1, 3, *SIZE), (1, 1, *SIZE), (1, 0, *SIZE))
    assert masks[0, :, 0, 0].tolist() == [1, -1, -1]
    assert mattes[0, 0, 0].tolist() == pytest.approx((2 * sample.matte[0] - 1).tolist())


def test_a_mask_keeps_its_colours_when_it_is_fitted_and_mirrored(tmp_path):
    sample = FolderDataset(write_pictures(tmp_path)).read(2)
    small = fit(resize(sample, 11, 17), 8, 8)
    assert {tuple(c) for c in small.mask.reshape(-1, 3)} == {
        tuple(c) for c in sample.mask.reshape(-1, 3)
    }
    assert (np.diff(small.matte[0]) > 0).all()
    mirrored = flip(small)
    np.testing.assert_array_equal(mirrored.mask, small.mask[:, ::-1])
    np.testing.assert_array_equal(mirrored.matte, small.matte[:, ::-1])


def test_accuracy_of_masks_and_mattes_by_hand(tmp_path):
    dataset = FolderDataset(write_pictures(tmp_path, num_samples=2, split="test"), "test")
    constant = measure_accuracy(
        lambda frame: np.full((*SIZE, 3), 0.5), dataset, kind="mask", worst_sheet=tmp_path / "w.png"
    )
    # Halves (1, 0.2 i, 0) and (0, 0, 1) against 0.5 everywhere.
    per_image = [(0.5 + abs(0.5 - g) + 0.5 + 1.5) / 6 for g in (0, 51 / 255)]
    assert constant.metrics.mae == pytest.approx(sum(per_image) / 2)
    squares = [(0.25 + (0.5 - g) ** 2 + 0.25 + 0.75) / 6 for g in (0, 51 / 255)]
    assert constant.metrics.mse == pytest.approx(sum(squares) / 2)
    assert constant.worst[0].endswith("s0.png")
    assert (constant.problem, constant.metrics.num_valid) == (None, 2 * 16 * 24)
    matte = measure_accuracy(lambda frame: np.zeros(SIZE), dataset, kind="matte")
    assert matte.values() == pytest.approx(
        {"mae": 0.5, "mse": (np.linspace(0, 1, 24) ** 2).mean()}, abs=1e-3
    )


def test_a_set_of_pictures_alone_can_be_checked(tmp_path):
    sheet = tmp_path / "sheet.png"
    report = check_data(write_pictures(tmp_path / "data"), sheet=sheet)
    assert report.ok
    assert report.splits["train"].num_samples == 3
    tiles = np.split(cv2.imread(str(sheet))[..., ::-1], 4, axis=1)  # rgb, depth, mask, matte
    assert tiles[2][5, [5, -5]].tolist() == [[255, 0, 0], [0, 0, 255]]
    assert tiles[3][5, -1].tolist() == [255] * 3
