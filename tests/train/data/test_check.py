import re

import cv2
import numpy as np
import pytest

from e2e_deploy.errors import DataError
from e2e_deploy.train.data.check import check_data, contact_sheet
from e2e_deploy.train.data.folder_spec import FolderSpec, save_spec
from e2e_deploy.train.data.normals_from_depth import normals_from_depth
from e2e_deploy.train.data.sample import Camera
from tests.train.fixtures import write_folder, write_sample


def test_a_sound_set(tmp_path):
    write_folder(tmp_path, splits=("train", "val"), num_samples=3)
    seen = []
    report = check_data(tmp_path, on_progress=lambda *step: seen.append(step))
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
    report = check_data(tmp_path)
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
    report = check_data(tmp_path)
    assert not report.ok
    (sentence,) = report.suspicions
    assert sentence.startswith("train: ")
    assert message in sentence


def test_wrong_axes_are_suspected(tmp_path):
    write_folder(tmp_path)
    path = tmp_path / "dataset.toml"
    path.write_text(path.read_text().replace("right-up-back", "right-down-front"))
    (sentence,) = check_data(tmp_path).suspicions
    assert "100% of the normals point away" in sentence


CAMERA = Camera(fx=40, fy=40, cx=23.5, cy=15.5)


def write_hills(root, change=lambda index, sample: None, num_samples=4, **spec):
    """Curved surfaces of 32 x 48 pixels with their normals; ``change`` edits each sample in place."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:32, 0:48]
    named = {"depth_format": "npy", "unit_m": 1.0, "normals_format": "npy", "camera": CAMERA}
    folder_spec = FolderSpec(name="hills", **(named | spec))
    for index in range(num_samples):
        a, b = rng.uniform(3, 6, 2)
        depth = (3 + 0.3 * np.sin(x / a + index) + 0.3 * np.sin(y / b)).astype(np.float32)
        sample = {
            "rgb": rng.integers(0, 255, (32, 48, 3), dtype=np.uint8),
            "depth_m": depth,
            "normals": normals_from_depth(depth, CAMERA),
        }
        change(index, sample)
        write_sample(root / "train", f"s{index:03d}", *sample.values(), folder_spec)
    save_spec(root, folder_spec)
    return root


def only_the_first(key, edit):
    def change(index, sample):
        if index == 0:
            edit(sample[key])

    return change


def sky(value):
    return only_the_first("depth_m", lambda depth: depth.__setitem__(slice(0, 12), value))


def test_hills_are_sound(tmp_path):
    assert check_data(write_hills(tmp_path)).suspicions == ()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (sky(1e10), "1 of 4 pictures hold depth above 1000 m .* set depth.max_m below it .*s000"),
        (sky(65504), "1 of 4 pictures hold depth above 1000 m"),
        (sky(100), "1 of 4 pictures hold depth above 1000 m or far beyond the rest"),
        (sky(1e-4), "1 of 4 pictures hold depth below 0.002 m"),
        (sky(0), None),
        (only_the_first("depth_m", lambda d: d.fill(3)), "1 of 4 pictures have the same depth"),
        (only_the_first("depth_m", lambda d: d.fill(0)), "1 of 4 pictures have no valid depth"),
        (only_the_first("rgb", lambda rgb: rgb.fill(3)), "1 of 4 pictures are black"),
        (only_the_first("normals", lambda n: n.fill(0)), "1 of 4 pictures have no known normal"),
        (
            lambda _index, sample: sample["depth_m"].__setitem__(slice(0, 4), 20),
            "the largest depth is exactly 20 m in 4 of 4 pictures",
        ),
    ],
)
def test_truths_that_no_scene_has(tmp_path, change, sentence):
    report = check_data(write_hills(tmp_path, change))
    assert report.ok == (sentence is None)
    assert len(report.suspicions) == (sentence is not None)
    assert all(re.search(sentence, found) for found in report.suspicions)


def test_a_background_beyond_max_m_is_no_depth(tmp_path):
    assert check_data(write_hills(tmp_path, sky(1e10), max_m=100.0)).ok


@pytest.mark.parametrize("noise_m", [0.0, 0.003])
@pytest.mark.parametrize(
    ("turn", "axes"),
    [
        (np.diag([1, 1, 1]), None),
        (np.diag([-1, 1, 1]), "-x y z"),
        (np.diag([1, -1, 1]), "x -y z"),
        (np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]]), "y x z"),
        (np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]]), "z y x"),
    ],
)
def test_normals_in_other_axes_than_the_depth(tmp_path, turn, axes, noise_m):
    rng = np.random.default_rng(1)

    def change(_index, sample):
        sample["normals"] = (sample["normals"] @ turn).astype(np.float32)
        noise = rng.normal(0, 1, sample["depth_m"].shape) * noise_m
        sample["depth_m"] += noise.astype(np.float32)

    report = check_data(write_hills(tmp_path, change))
    found = [line for line in report.suspicions if "of those from the depth" in line]
    assert len(found) == (axes is not None)
    assert all(f"stored normals are {axes} of those" in line for line in found)
    assert report.ok == (axes is None)


def test_surfaces_that_all_lean_one_way(tmp_path):
    def change(index, sample):
        y, x = np.mgrid[0:32, 0:48]
        plane = 1 / (0.25 + 0.003 * (x - 23) * (-1) ** index + 0.004 * (y - 15))
        sample["depth_m"] = plane.astype(np.float32)
        sample["normals"] = normals_from_depth(sample["depth_m"], CAMERA) * [1, -1, 1]

    (line,) = check_data(write_hills(tmp_path, change)).suspicions
    assert "stored normals are x -y z of those" in line


def test_normals_that_have_nothing_to_do_with_the_depth(tmp_path):
    rng = np.random.default_rng(2)

    def change(_index, sample):
        rng.shuffle(sample["normals"].reshape(-1, 3))

    (line,) = check_data(write_hills(tmp_path, change)).suspicions
    assert "have nothing in common" in line


def test_a_set_with_normals_alone(tmp_path):
    write_hills(tmp_path)
    (tmp_path / "dataset.toml").write_text('name = "n"\n[normals]\nformat = "npy"\n')
    report = check_data(tmp_path)
    assert report.ok
    assert np.isnan(report.splits["train"].median_m)
    assert contact_sheet(tmp_path, tmp_path / "sheet.png") == 4


def test_a_set_of_which_nothing_can_be_read_is_reported_not_raised(tmp_path):
    write_folder(tmp_path, num_samples=1)
    (tmp_path / "train/rgb/s000.png").write_bytes(b"")
    report = check_data(tmp_path)
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
