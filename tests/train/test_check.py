import cv2
import numpy as np
import pytest

from e2e_deploy.errors import DataError
from e2e_deploy.train.check import check_dataset, contact_sheet
from tests.train.fixtures import write_folder


def test_a_sound_set(tmp_path):
    write_folder(tmp_path, splits=("train", "val"), num_samples=3)
    seen = []
    report = check_dataset(tmp_path, lambda *step: seen.append(step))
    assert report.ok
    assert report.has_normals
    assert report.name == "tiny"
    assert list(report.splits) == ["train", "val"]
    assert seen[-1] == (6, 6)
    train = report.splits["train"]
    assert train.num_samples == 3
    assert 1 < train.min_m < train.median_m < train.max_m < 10
    assert train.valid_share == 1


def test_what_is_missing_or_damaged_is_named(tmp_path):
    write_folder(tmp_path, num_samples=4)
    (tmp_path / "train/normals/s001.png").unlink()
    (tmp_path / "train/rgb/s002.png").write_bytes(b"\x89PNG")
    report = check_dataset(tmp_path)
    assert not report.ok
    train = report.splits["train"]
    assert train.num_samples == 3
    assert train.missing == (str(tmp_path / "train/normals/s001.png"),)
    assert [bad.name for bad in train.bad] == ["s002"]
    assert "s002.png: not a readable picture" in train.bad[0].reason


@pytest.mark.parametrize(
    ("stored", "said", "message"), [(0.001, 1e-6, "below 0.05 m"), (0.001, 1.0, "above 200 m")]
)
def test_a_wrong_unit_is_suspected(tmp_path, stored, said, message):
    write_folder(tmp_path, unit_m=stored)
    path = tmp_path / "dataset.toml"
    path.write_text(path.read_text().replace(f"unit_m = {stored!r}", f"unit_m = {said!r}"))
    report = check_dataset(tmp_path)
    assert not report.ok
    (sentence,) = report.suspicions
    assert sentence.startswith("train: ")
    assert message in sentence


def test_wrong_axes_are_suspected(tmp_path):
    write_folder(tmp_path)
    path = tmp_path / "dataset.toml"
    path.write_text(path.read_text().replace("right-up-back", "right-down-front"))
    (sentence,) = check_dataset(tmp_path).suspicions
    assert "100% of the normals point away" in sentence


def test_a_set_of_which_nothing_can_be_read_is_reported_not_raised(tmp_path):
    write_folder(tmp_path, num_samples=1)
    (tmp_path / "train/rgb/s000.png").write_bytes(b"")
    report = check_dataset(tmp_path)
    assert len(report.splits["train"].bad) == 1
    assert np.isnan(report.splits["train"].median_m)
    with pytest.raises(DataError, match="none of 1 samples"):
        contact_sheet(tmp_path, tmp_path / "sheet.png")


@pytest.mark.parametrize(("normals", "tiles"), [("png8", 3), (None, 2)])
def test_the_contact_sheet_shows_colour_depth_and_normals(tmp_path, normals, tiles):
    write_folder(tmp_path, normals_format=normals, num_samples=5)
    out = tmp_path / "out" / "sheet.png"
    assert contact_sheet(tmp_path, out, num_samples=4) == 4
    sheet = cv2.imread(str(out))
    assert sheet.shape == (4 * 240, tiles * 320, 3)
    if tiles == 3:
        # The planes' normal (-0.27, 0.36, 0.89) as a colour, in OpenCV's order.
        expected = (np.array([0.894, 0.358, -0.268]) + 1) * 127.5
        assert np.abs(sheet[120, 800] - expected).max() < 3
