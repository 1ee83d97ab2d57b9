import csv

import numpy as np
import pytest

from e2e_deploy.errors import DataError, UsageError
from e2e_deploy.metrics import angular_error_deg
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.train.preparation.conversion import read_statistics
from e2e_deploy.train.preparation.hypersim import (
    face_camera,
    hypersim_cameras,
    hypersim_jobs,
    hypersim_rays,
    prepare_hypersim,
    read_hypersim,
    tone_map,
)
from tests.train.fixtures import (
    BREAKAGES,
    break_hypersim,
    hypersim_file,
    plane_scene,
    write_hdf5,
    write_hypersim,
    write_normal_preview,
)

SIZE = (24, 32)


@pytest.fixture
def src(tmp_path):
    (tmp_path / "src").mkdir()
    return write_hypersim(tmp_path / "src")


def write_cameras(src, matrix, scene="ai_001_001", **changes):
    keys = [f"M_cam_from_uv_{row}{column}" for row in range(3) for column in range(3)]
    row = {"scene_name": scene} | dict(zip(keys, np.ravel(matrix), strict=True)) | changes
    with (src / "metadata_camera_parameters.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)


PLAIN = np.diag([0.3, 0.2, -1.0])
TILTED = np.array([[0.4, 0.02, 0.1], [0.01, 0.3, -0.05], [0.03, 0.1, -1.0]])


@pytest.mark.parametrize("matrix", [PLAIN, TILTED])
def test_each_scene_has_its_own_camera(tmp_path, matrix):
    src = write_hypersim(tmp_path / "src", num_frames=1)
    write_cameras(src, matrix)
    # By hand: the ray of pixel (row, column), and where it meets the plane n . p = -3.
    normal, height, width = np.array([-0.1, 0.2, 1.0]), 48, 64
    distance, depth = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    for row in range(height):
        for column in range(width):
            u, v = (column + 0.5) / width * 2 - 1, 1 - (row + 0.5) / height * 2
            ray = matrix @ np.array([u, v, 1.0])
            point = ray * -3 / (normal @ ray)
            distance[row, column], depth[row, column] = np.linalg.norm(point), -point[2]
    write_hdf5(hypersim_file(src, 0, "depth_meters"), distance)
    (job,), _ = hypersim_jobs(src)
    sample = read_hypersim(job, (48, 64), hypersim_cameras(src))
    assert np.abs(sample.depth_m - depth)[sample.valid].max() < 1e-5
    assert np.abs(read_hypersim(job, (48, 64)).depth_m - depth)[sample.valid].max() > 0.01
    report = prepare_hypersim(src, tmp_path / "dst", size=(48, 64))
    assert report.notes == ()
    assert FolderDataset(tmp_path / "dst", "val").spec.name == "hypersim with scene cameras"


def test_an_assumed_camera_is_told_and_not_mixed_with_a_known_one(tmp_path):
    src = write_hypersim(tmp_path / "src", num_frames=1)
    (note,) = prepare_hypersim(src, tmp_path / "dst", size=SIZE).notes
    assert "was assumed for 1 scenes, first ai_001_001" in note
    write_cameras(src, PLAIN)
    with pytest.raises(UsageError, match="prepared with other settings"):
        prepare_hypersim(src, tmp_path / "dst", size=SIZE)
    write_cameras(src, PLAIN, scene="ai_002_002")
    (note,) = prepare_hypersim(src, tmp_path / "other", size=SIZE).notes
    assert "assumed for 1 scenes" in note


@pytest.mark.parametrize("change", [{"M_cam_from_uv_00": "wide"}, {"M_cam_from_uv_22": "nan"}])
def test_a_table_of_cameras_that_is_none(tmp_path, change):
    write_cameras(tmp_path, PLAIN, **change)
    with pytest.raises(DataError, match="not Hypersim's table of cameras"):
        hypersim_cameras(tmp_path)
    (tmp_path / "metadata_camera_parameters.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="not Hypersim's table of cameras"):
        hypersim_cameras(tmp_path)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("split_partition_name", ".."),
        ("split_partition_name", "/tmp"),
        ("scene_name", "../../elsewhere"),
        ("camera_name", "cam_00,1"),
        ("frame_id", "-1"),
        ("frame_id", "one"),
        ("frame_id", ""),
    ],
)
def test_names_of_the_table_stay_inside(tmp_path, column, value):
    write_hypersim(tmp_path / "src", num_frames=1)
    table = tmp_path / "src" / "metadata_images_split_scene_v1.csv"
    rows = list(csv.DictReader(table.read_text().splitlines()))
    rows[0][column] = value
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(DataError, match=f"{column} .* is not what Hypersim calls one"):
        hypersim_jobs(tmp_path / "src")


def test_jobs_follow_the_metadata(src):
    jobs, num_absent = hypersim_jobs(src)
    assert [(job.split, job.stem) for job in jobs] == [
        ("val", "ai_001_001_cam_00_0000"),
        ("train", "ai_001_001_cam_00_0001"),
        ("train", "ai_001_001_cam_00_0002"),
    ]
    assert num_absent == 1


@pytest.mark.parametrize("preview", [False, True])
def test_a_frame_becomes_planar_depth_and_facing_normals(src, preview):
    if preview:
        write_normal_preview(src, 1)
    job = hypersim_jobs(src)[0][1]
    scene = plane_scene(1)
    sample = read_hypersim(job, size=(48, 64))
    known = scene.entities != -1
    assert np.array_equal(sample.valid, known)
    assert np.abs(sample.depth_m - scene.depth_m)[known].max() < 1e-5
    assert (sample.depth_m[~known] == 0).all()
    error = angular_error_deg(sample.normals, scene.normals, known)
    assert np.nanmax(error) < (0.5 if preview else 0.1)
    assert (sample.normals[~known] == 0).all()


def test_prepared_data_reads_back_at_the_training_size(src, tmp_path):
    seen = []
    report = prepare_hypersim(
        src, tmp_path / "dst", size=SIZE, on_progress=lambda done, total: seen.append((done, total))
    )
    assert (report.num_written, report.num_kept, report.num_absent) == (3, 0, 1)
    assert report.bad == report.suspicions == ()
    assert seen == [(1, 3), (2, 3), (3, 3)]
    data = FolderDataset(tmp_path / "dst", "train")
    sample, scene = data.read(0), plane_scene(1)
    assert sample.rgb.shape == (*SIZE, 3)
    # Half the size: a stored pixel lies between four, so it is off by at most one of them.
    assert np.abs(sample.depth_m - scene.depth_m[::2, ::2])[3:].max() < 0.15
    assert np.nanmax(angular_error_deg(sample.normals, scene.normals[:24, :32], sample.valid)) < 1
    row = read_statistics(tmp_path / "dst", "train")["ai_001_001_cam_00_0001"]
    assert float(row["median_m"]) == pytest.approx(
        np.median(sample.depth_m[sample.valid]), abs=1e-3
    )
    assert float(row["valid_share"]) == pytest.approx(sample.valid.mean(), abs=1e-5)


def test_depth_beyond_sixteen_bits_is_invalid_not_small(src, tmp_path):
    scene = plane_scene(1)
    far = scene.distance_m.copy()
    far[20:30] = 68.0 * far[20:30] / scene.depth_m[20:30]
    write_hdf5(hypersim_file(src, 1, "depth_meters"), far)
    prepare_hypersim(src, tmp_path / "dst", size=(48, 64))
    sample = FolderDataset(tmp_path / "dst", "train").read(0)
    assert not sample.valid[20:30].any()
    assert sample.depth_m.max() < 10
    row = read_statistics(tmp_path / "dst", "train")["ai_001_001_cam_00_0001"]
    assert float(row["saturated_share"]) == pytest.approx(10 / 48, abs=1e-4)


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_bad_frame_is_named_skipped_and_counted(src, tmp_path, breakage):
    break_hypersim(src, 2, breakage)
    report = prepare_hypersim(src, tmp_path / "dst", size=SIZE)
    assert report.num_written == 2
    (bad,) = report.bad
    assert bad.name == "ai_001_001_cam_00_0002"
    assert BREAKAGES[breakage] in bad.reason
    assert "frame.0002" in bad.reason
    assert FolderDataset(tmp_path / "dst", "train").stems == ["ai_001_001_cam_00_0001"]


def test_stop_raises_at_the_first_bad_frame(src, tmp_path):
    break_hypersim(src, 0, "truncated")
    with pytest.raises(DataError, match=r"ai_001_001_cam_00_0000.*color\.hdf5"):
        prepare_hypersim(src, tmp_path / "dst", size=SIZE, on_bad="stop")


def test_a_wrong_unit_is_suspected_and_said(src, tmp_path):
    for frame in range(3):
        thousandth = plane_scene(frame).distance_m / 1000
        write_hdf5(hypersim_file(src, frame, "depth_meters"), thousandth)
    report = prepare_hypersim(src, tmp_path / "dst", size=SIZE)
    assert len(report.suspicions) == 1
    assert "below 0.05 m: the unit looks wrong" in report.suspicions[0]


def test_without_normals_none_are_needed(src, tmp_path):
    for frame in range(3):
        hypersim_file(src, frame, "normal_cam").unlink()
    assert len(prepare_hypersim(src, tmp_path / "a", size=SIZE).bad or ()) == 3
    report = prepare_hypersim(src, tmp_path / "b", size=SIZE, with_normals=False)
    assert report.num_written == 3
    assert not FolderDataset(tmp_path / "b").has_normals
    with pytest.raises(UsageError, match="prepared with other settings"):
        prepare_hypersim(src, tmp_path / "b", size=SIZE)


def test_metadata_that_is_not_there_or_not_hypersims(src, tmp_path):
    metadata = src / "metadata_images_split_scene_v1.csv"
    metadata.write_text("scene_name,frame_id\n")
    with pytest.raises(DataError, match="columns camera_name, included"):
        prepare_hypersim(src, tmp_path / "dst")
    metadata.unlink()
    with pytest.raises(DataError, match="is missing: copy it from"):
        prepare_hypersim(src, tmp_path / "dst")


def test_tone_mapping_brings_the_bright_percentile_to_its_target():
    rng = np.random.default_rng(0)
    gray = rng.uniform(0, 30, (40, 50, 1)).astype(np.float32)
    color = np.repeat(gray, 3, axis=2)
    known = np.ones((40, 50), bool)
    known[:, :10] = False
    color[:, :10] = 1000
    got = tone_map(color, known)
    assert np.percentile(got[known], 90) == pytest.approx(0.8 * 255, abs=1)
    assert got[:, 0].min() == 255
    expected = 0.8 * (gray / np.percentile(gray[known], 90)) ** (1 / 2.2)
    assert np.abs(got[known] / 255 - np.clip(expected[known], 0, 1)).max() < 0.003


def test_tone_mapping_of_a_black_or_damaged_picture():
    black = np.zeros((4, 4, 3), np.float32)
    assert tone_map(black, np.ones((4, 4), bool)).max() == 0
    black[0, 0] = np.nan
    black[1, 1] = np.inf
    assert tone_map(black, np.ones((4, 4), bool)).max() == 0
    assert tone_map(np.ones((2, 2, 3), np.float32), np.zeros((2, 2), bool)).min() == 255


def test_normals_are_turned_by_the_ray_not_by_the_axis():
    # A surface at the left border that leans away: z is negative, yet the camera sees its front.
    rays = hypersim_rays(48, 64)
    normal = np.array([0.95, 0.0, -0.3], np.float32) / np.float32(np.hypot(0.95, 0.3))
    got = face_camera(np.broadcast_to(normal, (48, 64, 3)), rays)
    assert np.array_equal(got[24, 0], normal)
    assert np.array_equal(got[24, 63], -normal)
