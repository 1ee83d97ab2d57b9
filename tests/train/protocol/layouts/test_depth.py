"""Each depth set by hand: a crop, mask, range, alignment or averaging that was wrong would change the number."""

import numpy as np
import pytest

from e2e_deploy.errors import DataError
from e2e_deploy.train.protocol.catalogue import SETS, SetVariants, open_set
from e2e_deploy.train.protocol.measuring.measure import measure_set
from tests.train.protocol import made_sets
from tests.train.protocol.made_sets import Known, by_hand, halves

WOBBLE = 0.25


def measured(root, name, predict, tmp_path, kind="depth", **variants):
    samples = open_set(root, "depth", name, SetVariants(**variants))
    each = SETS["depth"][name]
    return measure_set(predict, samples, each, kind, range(len(samples)), tmp_path / "rows.jsonl")


def test_nyuv2_is_raw_depth_in_eigens_crop_clipped_to_ten_metres(tmp_path):
    rows, columns = slice(45, 471), slice(41, 601)
    truth, prediction = halves((480, 640), rows, columns, 2.0, 9.5, WOBBLE, 5.0, 40.0)
    made_sets.nyuv2(tmp_path, 1, truth)
    made_sets.nyuv2(
        tmp_path, 9, truth, folder="train"
    )  # in the archive too, and not of the test split
    result = measured(tmp_path, "nyuv2", Known({1: prediction}), tmp_path)
    abs_rel, delta1 = by_hand(2.0, 9.5, WOBBLE, 1e-3, 10.0)
    assert abs_rel != pytest.approx(by_hand(2.0, 9.5, WOBBLE, 1e-3, np.inf)[0])
    assert result.metrics["abs_rel"] == pytest.approx(abs_rel, rel=1e-6)
    assert result.metrics["delta1"] == pytest.approx(delta1)
    assert result.metrics["num_valid"] == 426 * 560


def test_nyuv2_leaves_out_what_is_unknown_or_at_the_ends_of_its_range(tmp_path):
    rows, columns = slice(45, 471), slice(41, 601)
    truth, prediction = halves((480, 640), rows, columns, 2.0, 4.0, WOBBLE, 5.0, 0.0)
    truth[45:471, 41:43] = 0.0  # two columns: one of each sign, so that the formula still holds
    truth[45:471, 43:45] = 10.0
    truth[45:471, 45:47] = 0.001
    made_sets.nyuv2(tmp_path, 1, truth)
    result = measured(tmp_path, "nyuv2", Known({1: prediction}), tmp_path)
    assert result.metrics["num_valid"] == 426 * 554
    assert result.metrics["abs_rel"] == pytest.approx(by_hand(2.0, 4.0, WOBBLE, 0, 10)[0], rel=1e-6)


def test_a_mean_is_over_images_not_over_pixels(tmp_path):
    rows, columns = slice(45, 471), slice(41, 601)
    truth, prediction = halves((480, 640), rows, columns, 2.0, 4.0, WOBBLE, 5.0, 0.0)
    exact, right = halves((480, 640), rows, columns, 2.0, 4.0, 0.0, 5.0, 0.0)
    exact[45:471, 41:595] = 0.0  # hardly any pixel of the second image counts
    made_sets.nyuv2(tmp_path, 1, truth)
    made_sets.nyuv2(tmp_path, 2, exact, scene="office_0005")
    result = measured(tmp_path, "nyuv2", Known({1: prediction, 2: right}), tmp_path)
    abs_rel, delta1 = by_hand(2.0, 4.0, WOBBLE, 0, 10)
    assert result.metrics["abs_rel"] == pytest.approx(abs_rel / 2, rel=1e-6)
    assert result.metrics["delta1"] == pytest.approx((delta1 + 1) / 2)


@pytest.mark.parametrize(("mask", "rows"), [("eigen", slice(117, 321)), ("garg", slice(143, 349))])
def test_kitti_is_cut_as_its_benchmark_and_masked(tmp_path, mask, rows):
    columns = slice(43, 1172)
    # An odd number of columns: leave the last one out, so that the four groups are equally many.
    truth, prediction = halves((352, 1216), rows, slice(43, 1171), 5.0, 75.0, WOBBLE, 60.0, 9.0)
    truth[:, 1171] = 0.0
    truth[:, 43:45] = 90.0  # out of range, of each sign
    made_sets.kitti(tmp_path, 1, truth)
    made_sets.kitti(tmp_path, 2, None, name="0000000075")
    known = Known({1: prediction})
    result = measured(tmp_path, "kitti", known, tmp_path, kitti_mask=mask)
    assert known.seen == [(352, 1216, 3)]
    assert result.metrics["num_valid"] == (rows.stop - rows.start) * 1126
    abs_rel, _ = by_hand(5.0, 75.0, WOBBLE, 1e-5, 80.0)
    assert abs_rel != pytest.approx(by_hand(5.0, 75.0, WOBBLE, 1e-5, np.inf)[0])
    assert result.metrics["abs_rel"] == pytest.approx(abs_rel, rel=1e-6)
    assert result.left_out == {"no ground truth, as published": 1}
    assert columns.stop - columns.start == 1129


def test_kittis_cut_is_of_the_lowest_rows_and_the_middle_columns(tmp_path):
    truth = np.zeros((352, 1216))
    truth[200, 600] = 8.0
    made_sets.kitti(tmp_path, 1, truth)
    sample = open_set(tmp_path, "depth", "kitti").read(0)
    assert np.argwhere(sample.valid).tolist() == [[200, 600]]
    assert sample.depth_m[200, 600] == 8.0


def test_eth3d_is_aligned_on_a_sample_of_columns_and_measured_on_all(tmp_path):
    # Of 2048 columns nearest-neighbour sampling to 1024 takes the even ones. Those are right, the others off by 0.1.
    truth = np.full((8, 2048), 2.0)
    truth[4:] = 6.0
    prediction = (truth - 2) / 4
    prediction[:, 1::2] += 0.1
    truth[:, :2] = np.inf  # one column of each
    made_sets.eth3d(tmp_path, 1, truth)
    result = measured(tmp_path, "eth3d", Known({1: prediction}), tmp_path)
    assert result.metrics["num_valid"] == 8 * 2046
    assert result.metrics["abs_rel"] == pytest.approx((0.4 / 2 + 0.4 / 6) / 2 / 2, rel=1e-6)


def test_scannet_counts_what_lies_in_its_range(tmp_path):
    truth, prediction = halves((48, 64), slice(8, 40), slice(10, 50), 3.0, 9.5, WOBBLE, 0.0, 7.0)
    truth[0] = 10.0
    made_sets.scannet(tmp_path, 1, truth)
    result = measured(tmp_path, "scannet", Known({1: prediction}), tmp_path)
    assert result.metrics["num_valid"] == 32 * 40
    expected = by_hand(3.0, 9.5, WOBBLE, 1e-3, 10.0)[0]
    assert result.metrics["abs_rel"] == pytest.approx(expected, rel=1e-6)


def test_diodes_mask_decides_and_its_range_only_clips(tmp_path):
    # Near depth lies below the range of 0.6 m and counts; the aligned prediction is raised to 0.6.
    truth, prediction = halves((48, 64), slice(8, 40), slice(10, 50), 0.5, 3.0, WOBBLE, 20.0, 9.0)
    mask = np.zeros((48, 64))
    mask[8:40, 10:50] = 1
    made_sets.diode(tmp_path, 1, truth, mask)
    result = measured(tmp_path, "diode", Known({1: prediction}), tmp_path)
    assert result.metrics["num_valid"] == 32 * 40
    expected = by_hand(0.5, 3.0, WOBBLE, 0.6, 350.0)[0]
    assert expected != pytest.approx(by_hand(0.5, 3.0, WOBBLE, 1e-6, 350.0)[0])
    assert result.metrics["abs_rel"] == pytest.approx(expected, rel=1e-6)


def test_diode_has_indoors_and_outdoor(tmp_path):
    truth = np.full((16, 16), 2.0)
    for level, where in ((1, "indoors"), (2, "outdoor")):
        made_sets.diode(tmp_path, level, truth, np.ones((16, 16)), where=where)
    assert len(open_set(tmp_path, "depth", "diode")) == 2


@pytest.mark.parametrize("name", ["nyuv2", "kitti", "eth3d", "scannet", "diode"])
def test_an_archive_is_read_in_place_as_its_folder_is(tmp_path, name):
    shape = (480, 640) if name == "nyuv2" else (352, 1216)
    truth = np.linspace(1, 5, shape[0] * shape[1]).reshape(shape)
    if name == "diode":
        made_sets.diode(tmp_path, 7, truth, truth > 2)
    else:
        getattr(made_sets, name)(tmp_path, 7, truth)
    folder = open_set(tmp_path, "depth", name).read(0)
    archive, *_ = SETS["depth"][name].places
    top = tmp_path / archive.removesuffix(".tar")
    made_sets.packed(top if top.is_dir() else top.parent, tmp_path / archive)
    samples = open_set(tmp_path, "depth", name)
    inside = samples.read(0)
    assert inside.path.startswith(str(tmp_path / archive))
    for field in ("rgb", "depth_m", "valid"):
        assert np.array_equal(getattr(inside, field), getattr(folder, field))
    assert inside.valid.any()


def test_a_published_list_beside_the_archive_is_followed(tmp_path):
    truth = np.full((20, 20), 2.0)
    for level, scene in ((1, "scene0001_00"), (2, "scene0002_00"), (3, "scene0003_00")):
        made_sets.scannet(tmp_path, level, truth, scene=scene)
    lines = [
        f"{scene}/color/000300.jpg {scene}/depth/000300.png"
        for scene in ("scene0003_00", "scene0001_00", "scene0009_00")
    ]
    (tmp_path / "scannet" / "scannet_val_sampled_list_800_1.txt").write_text("\n".join(lines))
    samples = open_set(tmp_path, "depth", "scannet")
    assert [samples.name(i) for i in range(len(samples))] == [
        "scene0003_00/color/000300.jpg",
        "scene0001_00/color/000300.jpg",
    ]
    assert samples.left_out == {"picture missing": 1}


def test_a_list_of_something_else_is_a_sentence(tmp_path):
    made_sets.scannet(tmp_path, 1, np.full((20, 20), 2.0))
    (tmp_path / "scannet" / "scannet_val_sampled_list_800_1.txt").write_text("../../etc/passwd x")
    with pytest.raises(DataError, match="which is no picture of the set"):
        open_set(tmp_path, "depth", "scannet")


def test_a_list_that_names_a_picture_twice_is_refused(tmp_path):
    """It would count twice in the mean."""
    made_sets.scannet(tmp_path, 1, np.full((20, 20), 2.0))
    line = "scene0406_02/color/000300.jpg scene0406_02/depth/000300.png"
    listed = tmp_path / "scannet" / "scannet_val_sampled_list_800_1.txt"
    listed.write_text(f"{line}\n./{line}\n")
    with pytest.raises(DataError, match=r"names scene0406_02/color/000300.jpg 2 times"):
        open_set(tmp_path, "depth", "scannet")


def test_nyuv2_of_another_size_is_refused(tmp_path):
    """Eigen's crop is in pixels of 640x480, so it would be of another part of the picture."""
    made_sets.nyuv2(tmp_path, 1, np.full((240, 320), 2.0))
    with pytest.raises(
        DataError, match=r"depth_0001.png: it is 320x240, and Eigen's crop is of 640x480"
    ):
        open_set(tmp_path, "depth", "nyuv2").read(0)
