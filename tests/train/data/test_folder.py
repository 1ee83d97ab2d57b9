import cv2
import numpy as np
import pytest

from e2e_deploy.errors import DataError, UsageError
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.train.data.folder_spec import FolderSpec, load_spec, save_spec
from e2e_deploy.train.data.sample import Camera
from tests.train.fixtures import plane_scene, write_folder, write_sample

DEPTH = 'name = "x"\n[depth]\nformat = "npy"\n'
NORMALS = 'name = "x"\n[normals]\nformat = "npy"\n'


@pytest.mark.parametrize(
    ("depth", "unit_m", "normals"),
    [("png16", 0.001, "png8"), ("png16", 0.01, "png16"), ("npy", 1.0, "npy"), ("exr", 0.5, "exr")],
)
def test_every_format_gives_the_same_sample(tmp_path, depth, unit_m, normals):
    write_folder(tmp_path, depth_format=depth, unit_m=unit_m, normals_format=normals)
    data = FolderDataset(tmp_path)
    assert len(data) == 6
    assert data.has_normals
    sample, scene = data.read(2), plane_scene(2)
    assert np.abs(sample.depth_m - (scene.depth_m + 2)).max() <= unit_m / 2 + 1e-6
    assert np.abs(sample.normals - scene.normals).max() < 0.01
    assert sample.rgb.dtype == np.uint8
    assert np.array_equal(
        sample.rgb[:, 40:], np.clip(scene.color * 60, 0, 255).astype(np.uint8)[:, 40:]
    )
    assert sample.valid.all()
    assert sample.path.endswith("train/rgb/s002.png")


def test_range_and_saturation_decide_what_is_valid(tmp_path):
    spec = FolderSpec(name="x", depth_format="png16", unit_m=0.001, min_m=1.0, max_m=100.0)
    depth = np.full((8, 8), 5, np.float32)
    depth[0, :4] = [0, 0.5, 80, np.nan]
    write_sample(tmp_path / "train", "a", np.zeros((8, 8, 3), np.uint8), depth, None, spec)
    save_spec(tmp_path, spec)
    sample = FolderDataset(tmp_path).read(0)
    assert sample.valid[0].tolist() == [False] * 4 + [True] * 4
    assert sample.depth_m[0, :4].tolist() == [0, 0, 0, 0]
    assert sample.normals is None


def test_distance_to_the_camera_becomes_planar_depth(tmp_path):
    focal = 886.81 * 64 / 1024
    camera = Camera(fx=focal, fy=focal, cx=31.5, cy=23.5)
    spec = FolderSpec(name="x", depth_format="npy", unit_m=1.0, depth_kind="ray", camera=camera)
    scene = plane_scene()
    write_sample(
        tmp_path / "train", "a", np.zeros((48, 64, 3), np.uint8), scene.distance_m, None, spec
    )
    save_spec(tmp_path, spec)
    assert np.abs(FolderDataset(tmp_path).read(0).depth_m - scene.depth_m).max() < 1e-5


def test_splits_and_their_names(tmp_path):
    write_folder(tmp_path, splits=("train", "validation"), num_samples=2)
    with pytest.raises(UsageError, match="no split 'val'; it has train"):
        FolderDataset(tmp_path, "val")
    text = (tmp_path / "dataset.toml").read_text()
    (tmp_path / "dataset.toml").write_text(text + '\n[split]\nval = "validation"\n')
    assert len(FolderDataset(tmp_path, "val")) == 2
    (tmp_path / "dataset.toml").write_text(text + '\n[split]\nval = "elsewhere"\n')
    with pytest.raises(DataError, match=r"no split folder .*elsewhere"):
        FolderDataset(tmp_path, "val")


def test_missing_pairs_are_named_and_left_out(tmp_path):
    write_folder(tmp_path, num_samples=3)
    (tmp_path / "train/depth/s001.png").unlink()
    (tmp_path / "train/rgb/s002.png").unlink()
    data = FolderDataset(tmp_path)
    assert data.stems == ["s000"]
    assert data.missing == [
        str(tmp_path / "train/depth/s001.png"),
        str(tmp_path / "train/rgb/s002.png"),
    ]


def test_a_split_that_shrank_says_so(tmp_path):
    write_folder(tmp_path, num_samples=4)
    assert FolderDataset(tmp_path).left_out_sentence() is None
    (tmp_path / "train/depth/s001.png").unlink()
    (tmp_path / "train/normals/s002.png").unlink()
    (tmp_path / "train/rgb/s003.png").unlink()
    data = FolderDataset(tmp_path, task="depth")
    assert data.stems == ["s000", "s002"]  # depth needs no normals
    assert data.left_out == {"truth file missing": 1, "picture missing": 1}
    sentence = data.left_out_sentence()
    assert "(train): 2 of 4 samples are left out (" in sentence
    assert sentence.endswith("depth/s001.png)")
    assert FolderDataset(tmp_path, task="normals").stems == ["s000", "s001"]


def test_each_task_reads_its_own_truth(tmp_path):
    write_folder(tmp_path, num_samples=1)
    depth, normals = (FolderDataset(tmp_path, task=task).read(0) for task in ("depth", "normals"))
    assert depth.normals is None
    assert depth.known("depth").all()
    assert not depth.known("normals").any()
    assert not normals.known("depth").any()
    assert normals.known("normals").all()


def test_normals_need_no_depth(tmp_path):
    write_folder(tmp_path, num_samples=2, depth_format="npy", normals_format="npy", unit_m=1.0)
    np.save(tmp_path / "train/depth/s000.npy", np.zeros((48, 64), np.float32))
    sample = FolderDataset(tmp_path).read(0)
    assert not sample.valid.any()
    assert sample.known("normals").all()
    (tmp_path / "dataset.toml").write_text(NORMALS)
    alone = FolderDataset(tmp_path)
    assert len(alone) == 2
    assert np.array_equal(alone.read(0).normals, sample.normals)
    with pytest.raises(UsageError, match="has no depth"):
        FolderDataset(tmp_path, task="depth")


def test_the_fingerprint_sees_what_was_added_or_changed(tmp_path):
    write_folder(tmp_path, num_samples=2)
    before = FolderDataset(tmp_path).fingerprint()
    assert FolderDataset(tmp_path).fingerprint() == before
    path = tmp_path / "dataset.toml"
    path.write_text(path.read_text().replace("unit_m = 0.001", "unit_m = 0.01"))
    other_unit = FolderDataset(tmp_path).fingerprint()
    write_folder(tmp_path, num_samples=3)
    grown = FolderDataset(tmp_path).fingerprint()
    cv2.imwrite(str(tmp_path / "train/depth/s000.png"), np.ones((48, 64), np.uint16))
    changed = FolderDataset(tmp_path).fingerprint()
    assert len({before, other_unit, grown, changed}) == 4


def test_bad_files_are_named(tmp_path):
    write_folder(tmp_path, num_samples=6)
    train = tmp_path / "train"
    depth = train / "depth/s000.png"
    depth.write_bytes(depth.read_bytes()[:100])
    cv2.imwrite(str(train / "depth/s001.png"), np.ones((48, 64), np.uint8))
    cv2.imwrite(str(train / "depth/s002.png"), np.ones((24, 32), np.uint16))
    cv2.imwrite(str(train / "normals/s003.png"), np.ones((24, 32, 3), np.uint8))
    cv2.imwrite(str(train / "normals/s004.png"), np.ones((48, 64, 3), np.uint16))
    (train / "rgb/s005.png").write_bytes(b"")
    data = FolderDataset(tmp_path)
    for index, message in enumerate(
        [
            r"s000\.png: not a readable picture",
            r"s001\.png: expected a 16-bit PNG, got uint8",
            r"s002\.png: depth is \(24, 32\), its picture is \(48, 64\)",
            r"s003\.png: normals are \(24, 32, 3\), expected \(48, 64, 3\)",
            r"s004\.png: expected png8, got uint16",
            r"s005\.png: not a readable picture \(0 bytes",
        ]
    ):
        with pytest.raises(DataError, match=message):
            data.read(index)


@pytest.mark.parametrize("kind", ["npy", "exr"])
def test_damaged_arrays_are_named(tmp_path, kind):
    write_folder(tmp_path, num_samples=1, depth_format=kind, unit_m=1.0)
    path = tmp_path / f"train/depth/s000.{kind}"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=rf"s000\.{kind}: not a readable {kind} file"):
        FolderDataset(tmp_path).read(0)


def test_an_npy_file_with_python_objects_is_refused(tmp_path):
    write_folder(tmp_path, num_samples=1, depth_format="npy", unit_m=1.0)
    np.save(tmp_path / "train/depth/s000.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(DataError, match="Python objects are never loaded"):
        FolderDataset(tmp_path).read(0)


def test_an_empty_set_is_an_error(tmp_path):
    write_folder(tmp_path, num_samples=1)
    (tmp_path / "train/rgb/s000.png").unlink()
    with pytest.raises(DataError, match="no sample with rgb, depth, normals of one stem"):
        FolderDataset(tmp_path)


def test_a_spec_survives_writing(tmp_path):
    spec = FolderSpec(
        name='quo"ted',
        depth_format="exr",
        unit_m=0.01,
        min_m=0.1,
        max_m=80,
        depth_kind="ray",
        normals_format="png16",
        normals_axes="right-down-front",
        camera=Camera(fx=1, fy=2, cx=3, cy=4),
        splits={"val": "validation"},
    )
    save_spec(tmp_path, spec)
    assert load_spec(tmp_path) == spec
    plain = FolderSpec(name="p", depth_format="npy", unit_m=1.0)
    save_spec(tmp_path, plain)
    assert load_spec(tmp_path) == plain


def test_all_mistakes_of_a_spec_are_reported_at_once(tmp_path):
    (tmp_path / "dataset.toml").write_text(
        """
        colour = 1
        [depth]
        format = "png8"
        unit_m = "mm"
        speed = 3
        [normals]
        axes = "left"
        [camera]
        fx = 1.0
        """
    )
    with pytest.raises(DataError) as caught:
        load_spec(tmp_path)
    for part in [
        "unknown key colour (known: name, depth, normals, mask, matte, camera, split)",
        "name is missing",
        "depth.format is 'png8'; expected 'png16' or 'npy' or 'exr'",
        "depth.unit_m is 'mm'; expected a value of type float",
        "unknown key depth.speed",
        "normals.format is missing",
        "normals.axes is 'left'",
        "camera.cy is missing",
    ]:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "not valid TOML"),
        ('name = "x"', r"expected a table \[depth\], \[normals\], \[mask\] or"),
        ('name = ""', "name is ''; expected a text that is not empty"),
        ('name = "\\u001b[2J"', "without control characters"),
        (DEPTH + "unit_m = 0", "depth.unit_m is 0.0; expected above 0"),
        (DEPTH + "unit_m = nan", "depth.unit_m is nan"),
        (DEPTH + "unit_m = inf", "depth.unit_m is inf"),
        (DEPTH + "unit_m = true", "depth.unit_m is True; expected a value of type float"),
        (DEPTH + "unit_m = 1" + 400 * "0", "depth.unit_m is inf"),
        (DEPTH + "unit_m = 1" + 5000 * "0", "not valid TOML"),
        (DEPTH + "unit_m = 1\nmin_m = 3\nmax_m = 2", "min_m 3 must be below depth.max_m 2"),
        (DEPTH + "unit_m = 1\nmax_m = nan", "depth.max_m is nan"),
        (NORMALS + "[camera]\nfx = 0\nfy = -1\ncx = nan\ncy = 1", "fx is 0.*fy is -1.*cx is nan"),
        (
            NORMALS + '[split]\nval = ".."',
            "split.val is '..'; expected the name of a folder inside",
        ),
        (NORMALS + '[split]\nval = "/"', "split.val is '/'"),
        (NORMALS + '[split]\nval = "../elsewhere"', "split.val is '../elsewhere'"),
        (NORMALS + '[split]\nval = ""', "split.val is ''"),
        (NORMALS + "[split]\nval = 3", "split.val is 3; expected a value of type str"),
        (NORMALS + "split = 3", "unknown key normals.split"),
        ("split = " + 5000 * "[" + 5000 * "]", "nested too deep"),
        ('name = "x"\n[depth]\nformat = "npy"\nunit_m = 1\nkind = "ray"', r"needs the table \[cam"),
    ],
)
def test_specs_that_make_no_sense(tmp_path, text, message):
    (tmp_path / "dataset.toml").write_text(text)
    with pytest.raises(DataError, match=message):
        load_spec(tmp_path)


def test_a_folder_without_spec(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"")
    for root in (tmp_path, tmp_path / "nowhere", tmp_path / "film.mp4"):
        with pytest.raises(
            DataError, match=f"{root} is no folder data set: it has no dataset.toml"
        ):
            FolderDataset(root)
