import cv2
import numpy as np
import pytest

from e2e_deploy.errors import DataError, UsageError
from e2e_deploy.metrics import angular_error_deg
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.train.preparation.vkitti2 import prepare_vkitti2, read_vkitti2, vkitti2_jobs
from tests.train.fixtures import vkitti2_depth_cm, vkitti2_files, write_vkitti2

ROAD = (slice(150, 352), slice(100, 600))
SKY = (slice(0, 100), slice(0, 700))
WALL = (slice(80, 140), slice(950, 1200))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("vkitti2")
    write_vkitti2(root / "src")
    write_vkitti2(root / "src", scenes=("Scene01",), weather="clone")
    report = prepare_vkitti2(root / "src", root / "dst", val_scenes=("Scene02",))
    return report, root / "dst"


def test_a_scene_to_validate_on_must_be_one_of_those_used(tmp_path):
    src = write_vkitti2(tmp_path / "src", scenes=("Scene01",))
    with pytest.raises(UsageError, match="no scene Scene99 to validate on"):
        prepare_vkitti2(src, tmp_path / "dst", val_scenes=("Scene99",))


@pytest.mark.parametrize(("before", "now"), [((), ("Scene02",)), (("Scene02",), ())])
def test_a_scene_does_not_come_into_a_second_split(tmp_path, before, now):
    """What is validated on would have been trained on."""
    src, dst = write_vkitti2(tmp_path / "src"), tmp_path / "dst"
    prepare_vkitti2(src, dst, val_scenes=before)
    with pytest.raises(UsageError, match=r"has Scene02_fog_Camera_0_00000 in the split .* choose"):
        prepare_vkitti2(src, dst, val_scenes=now)
    assert prepare_vkitti2(src, dst, val_scenes=before).num_kept == 2


def test_scenes_and_weathers_make_the_splits(prepared):
    report, dst = prepared
    assert (report.num_written, report.bad, report.suspicions) == (2, (), ())
    assert FolderDataset(dst, "train").stems == ["Scene01_fog_Camera_0_00000"]
    assert FolderDataset(dst, "val").stems == ["Scene02_fog_Camera_0_00000"]


def test_a_frame_is_cropped_in_centimetres_and_capped(prepared):
    sample = FolderDataset(prepared[1], "train").read(0)
    assert sample.rgb.shape == (352, 1216, 3)
    depth_m = vkitti2_depth_cm()[23:, 13:1229].astype(np.float32) / 100
    assert np.array_equal(sample.valid, depth_m < 80)
    assert np.abs(sample.depth_m - depth_m)[sample.valid].max() < 1e-5
    assert not sample.valid[SKY].any()


def test_the_road_faces_up_and_the_wall_the_viewer(prepared):
    sample = FolderDataset(prepared[1], "train").read(0)
    road, wall = sample.normals[ROAD], sample.normals[WALL]
    up = np.broadcast_to([0.0, 1.0, 0.0], road.shape)
    toward = np.broadcast_to([0.0, 0.0, 1.0], wall.shape)
    assert np.nanmean(angular_error_deg(road, up, sample.valid[ROAD])) < 3
    assert np.nanmean(angular_error_deg(wall, toward, sample.valid[WALL])) < 1
    assert (sample.normals[SKY] == 0).all()


def test_broken_frames_are_named(tmp_path):
    write_vkitti2(tmp_path, scenes=("Scene01", "Scene02", "Scene06", "Scene18"))
    vkitti2_files(tmp_path, 0, "Scene01")[0].unlink()
    rgb = vkitti2_files(tmp_path, 0, "Scene02")[0]
    rgb.write_bytes(rgb.read_bytes()[:500])
    cv2.imwrite(str(vkitti2_files(tmp_path, 0, "Scene06")[1]), np.ones((100, 100), np.uint16))
    cv2.imwrite(str(vkitti2_files(tmp_path, 0, "Scene18")[1]), np.ones((375, 1242), np.uint8))
    jobs = vkitti2_jobs(tmp_path, ("Scene01", "Scene02", "Scene06", "Scene18"), ("fog",))
    messages = [
        "Scene01.*rgb_00000.jpg: cannot be read",
        "Scene02.*rgb_00000.jpg: not a readable picture",
        r"\(100, 100\) must both be \(375, 1242\)",
        "expected a 16-bit PNG, got uint8",
    ]
    for job, message in zip(jobs, messages, strict=True):
        with pytest.raises(DataError, match=message):
            read_vkitti2(job)


def test_an_empty_source_is_an_error(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path} holds nothing of Virtual KITTI 2; expected"):
        prepare_vkitti2(tmp_path, tmp_path / "dst")
