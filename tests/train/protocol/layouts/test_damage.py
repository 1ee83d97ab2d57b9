"""A damaged file of a depth set is one sentence that names it."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from e2e_deploy.errors import DataError
from e2e_deploy.train.protocol.catalogue import find_set, not_here, open_set
from tests.train.protocol import made_sets

TRUTH = np.full((20, 20), 2.0)
DIODE = "indoors/scene_00021/scan_00189/00021_00189_indoors_200_010"


def only(root, pattern):
    (path,) = root.rglob(pattern)
    return path


@pytest.mark.parametrize(
    ("name", "pattern", "content", "said"),
    [
        ("nyuv2", "rgb_0001.png", b"", "not a readable picture"),
        ("nyuv2", "depth_0001.png", b"\x89PNG\r\n\x1a\n", "not a readable picture"),
        ("scannet", "000300.png", b"no picture", "not a readable picture"),
        ("eth3d", "depth/**/DSC_0219.JPG", bytes(100), "needs 1,600 bytes, it has 100"),
        ("diode", "*_depth.npy", b"\x93NUMPY\x01\x00", "not a readable npy file"),
        ("diode", "*_depth_mask.npy", b"", "not a readable npy file"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, pattern, content, said):
    if name == "diode":
        made_sets.diode(tmp_path, 1, TRUTH, TRUTH)
    else:
        getattr(made_sets, name)(tmp_path, 1, TRUTH)
    path = only(tmp_path, pattern)
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as raised:
        open_set(tmp_path, "depth", name).read(0)
    assert str(raised.value).startswith(str(path))


def test_depth_of_another_size_or_type_is_named(tmp_path):
    made_sets.scannet(tmp_path, 1, TRUTH)
    path = only(tmp_path, "000300.png")
    made_sets.write_png16(path, TRUTH[:10], 1000)
    with pytest.raises(DataError, match=r"the picture is \(20, 20\), its depth \(10, 20\)"):
        open_set(tmp_path, "depth", "scannet").read(0)
    cv2.imwrite(str(path), np.zeros((20, 20), np.uint8))
    with pytest.raises(DataError, match="expected a 16-bit grey PNG, got uint8"):
        open_set(tmp_path, "depth", "scannet").read(0)


def test_kitti_pictures_smaller_than_the_benchmarks_are_named(tmp_path):
    made_sets.kitti(tmp_path, 1, np.ones((352, 1216)))
    made_sets.write_grey(only(tmp_path, "data/0000000069.png"), (200, 1242), 1)
    with pytest.raises(DataError, match="1242x200 is smaller than the benchmark's 1216x352"):
        open_set(tmp_path, "depth", "kitti").read(0)


def test_a_mask_of_another_size_and_arrays_of_objects_are_named(tmp_path):
    made_sets.diode(tmp_path, 1, TRUTH, TRUTH)
    mask = tmp_path / "diode" / f"{DIODE}_depth_mask.npy"
    np.save(mask, np.ones((3, 3)))
    with pytest.raises(DataError, match=r"the mask is \(3, 3\), the depth \(20, 20\)"):
        open_set(tmp_path, "depth", "diode").read(0)
    np.save(mask, np.array([["x", 1], [None, 2]], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="Python objects are never loaded"):
        open_set(tmp_path, "depth", "diode").read(0)
    np.save(mask, np.ones((20, 20), bool))
    assert open_set(tmp_path, "depth", "diode").read(0).valid.all()


def test_a_picture_without_truth_is_counted_and_a_set_without_any_is_a_sentence(tmp_path):
    made_sets.scannet(tmp_path, 1, TRUTH)
    made_sets.scannet(tmp_path, 1, TRUTH, name="000301")
    only(tmp_path, "depth/000300.png").unlink()
    samples = open_set(tmp_path, "depth", "scannet")
    assert (len(samples), samples.left_out) == (1, {"truth file missing": 1})
    only(tmp_path, "depth/000301.png").unlink()
    with pytest.raises(DataError, match=r"no complete image of this set \(truth file missing: 2\)"):
        open_set(tmp_path, "depth", "scannet")


def test_a_set_that_is_not_here_says_how_to_get_it(tmp_path):
    assert find_set(tmp_path, "depth", "kitti") is None
    (tmp_path / "kitti").mkdir()
    assert find_set(tmp_path, "depth", "kitti") is None  # an empty folder is no set
    told = not_here(tmp_path, "depth", "kitti")
    assert "kitti/kitti_eigen_split_test.tar" in told
    assert "https://share.phys.ethz.ch/~pf/bingkedata/marigold/evaluation_dataset/" in told
    with pytest.raises(DataError, match="KITTI is not in"):
        open_set(tmp_path, "depth", "kitti")


def test_a_set_that_may_not_be_read_is_a_sentence(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "kitti").mkdir()
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"kitti: cannot be read \(Permission denied\)"):
        find_set(tmp_path, "depth", "kitti")
