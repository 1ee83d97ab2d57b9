"""DSINE's layouts, each where getting axes, mask, pooling or input wrong changes the number."""

import cv2
import mitsuba as mi
import numpy as np
import pytest
import torch

from e2e_deploy.errors import DataError
from e2e_deploy.train.accuracy import measure_accuracy
from e2e_deploy.train.data.encoding import decode_normals
from e2e_deploy.train.protocol.catalogue import SETS, SetVariants, open_set
from e2e_deploy.train.protocol.layouts.normals import published_input

STEM = {
    "nyuv2": "test/000000",
    "scannet": "scene0001_00/000000",
    "ibims": "ibims/corridor_01",
    "sintel": "alley_1/frame_0001",
}
PLAIN = SetVariants(published_input=False)


def write(root, name, stem, truth, rgb=None):
    """A picture of ``dsine_eval/<name>`` and its truth as DSINE stores it: uint8 as PNG, float32 as EXR."""
    path = root / "dsine_eval" / name / stem
    path.parent.mkdir(parents=True, exist_ok=True)
    rgb = np.zeros_like(truth, np.uint8) if rgb is None else rgb
    cv2.imwrite(f"{path}_img.png", rgb[..., ::-1])
    if truth.dtype == np.uint8:
        cv2.imwrite(f"{path}_normal.png", truth[..., ::-1])
    else:
        mi.Bitmap(truth).write(f"{path}_normal.exr")
    np.save(f"{path}_intrins.npy", np.eye(3, dtype=np.float32))
    return path


def stored(name, vectors):
    """Vectors [H, W, 3] in DSINE's axes as the files of a set hold them."""
    vectors = np.asarray(vectors, np.float32)
    is_png = name in ("nyuv2", "scannet")
    return np.rint((vectors + 1) * 127.5).astype(np.uint8) if is_png else vectors


@pytest.mark.parametrize("name", STEM)
def test_a_hand_made_picture_comes_in_our_axes(tmp_path, name):
    """A wall that looks left, a floor that looks up, and a wall that looks at the viewer."""
    left, up, viewer = (1, 0, 0), (0, 1, 0), (0, 0, 1)
    rgb = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    write(tmp_path, name, STEM[name], stored(name, [[left, up, viewer]]), rgb)
    sample = open_set(tmp_path, "normals", name, PLAIN).read(0)
    np.testing.assert_allclose(sample.normals, [[(-1, 0, 0), (0, 1, 0), (0, 0, 1)]], atol=0.008)
    np.testing.assert_array_equal(sample.rgb, rgb)
    assert sample.known("normals").all()
    assert sample.path.endswith(f"{STEM[name]}_img.png")


def test_a_png_knows_every_pixel_that_is_not_black(tmp_path):
    """Mid grey counts, unlike in a folder data set, and so does a single bit."""
    picture = np.array([[[0, 0, 0], [128, 128, 128], [0, 0, 1], [127, 127, 127]]], np.uint8)
    write(tmp_path, "nyuv2", STEM["nyuv2"], picture)
    sample = open_set(tmp_path, "normals", "nyuv2").read(0)
    assert sample.known("normals").tolist() == [[False, True, True, True]]
    assert not decode_normals(picture)[0, 1].any()
    third = 1 / np.sqrt(3)
    np.testing.assert_allclose(sample.normals[0, 1], [-third, third, third], atol=1e-5)
    np.testing.assert_allclose(sample.normals[0, 3], [third, -third, -third], atol=1e-5)


def test_an_exr_knows_vectors_longer_than_a_half(tmp_path):
    vectors = np.array([[[0, 0, 0.5], [0, 0, 0.51], [0, 0, 0], [np.nan, 0, 1]]], np.float32)
    write(tmp_path, "ibims", STEM["ibims"], vectors)
    sample = open_set(tmp_path, "normals", "ibims").read(0)
    assert sample.known("normals").tolist() == [[False, True, False, False]]
    np.testing.assert_array_equal(sample.normals[0, 1], [0, 0, 1])


def leaning(degrees):
    return np.sin(np.radians(degrees)), 0.0, np.cos(np.radians(degrees))


def test_errors_are_pooled_over_pixels_and_axes_count(tmp_path):
    """The model leans 10 degrees to the right, the truth as below, in DSINE's axes to the left.

    So they are 12 degrees apart in the one pixel of the first picture, and 2, 12 and 40 in the second: 16.5 pooled. The
    mean over pictures would be 15, and with x as stored the errors would be 8, 18, 8 and 60.
    """
    gone = (0, 0, 0)
    write(tmp_path, "sintel", "alley_1/frame_0001", stored("sintel", [[leaning(2), gone, gone]]))
    second = [[leaning(-8), leaning(2), leaning(-50)]]
    write(tmp_path, "sintel", "alley_1/frame_0002", stored("sintel", second))
    ours = np.broadcast_to(np.array(leaning(10), np.float32), (1, 3, 3))
    result = measure_accuracy(
        lambda frame: ours, open_set(tmp_path, "normals", "sintel"), kind="normals"
    )
    errors = [12.0, 2.0, 12.0, 40.0]
    metrics = result.metrics
    assert metrics.mean_deg == pytest.approx(np.mean(errors), abs=1e-3)
    assert metrics.median_deg == pytest.approx(12, abs=1e-3)
    assert metrics.rmse_deg == pytest.approx(np.sqrt(np.mean(np.square(errors))), abs=1e-3)
    assert (metrics.below_5, metrics.below_11_25, metrics.below_22_5) == (0.25, 0.25, 0.75)
    assert metrics.num_valid == 4


def test_the_published_input_is_stretched_over_all_channels():
    """By hand: normalised black is (-2.1179, -2.0357, -1.8044), white (2.2489, 2.4286, 2.64); that range becomes 0 to
    255, so that white is (2.2489 + 2.1179) / 4.7579 = 0.9178 of it in red."""
    rgb = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    np.testing.assert_array_equal(published_input(rgb), [[[0, 4, 16], [234, 243, 255]]])
    assert published_input(rgb).dtype == np.uint8
    # A flat grey has no range but that between its channels, and becomes blue.
    assert published_input(np.full((1, 1, 3), 90, np.uint8)).tolist() == [[[0, 87, 255]]]


def test_the_published_input_is_what_torch_computes():
    rgb = np.random.default_rng(3).integers(20, 200, (24, 32, 3), dtype=np.uint8)
    image = torch.from_numpy(rgb.astype(np.float32) / 255).permute(2, 0, 1)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    image = (image - mean[:, None, None]) / std[:, None, None]
    low, high = image.min().item(), image.max().item()
    expected = ((image - low) / (high - low) * 255.0).permute(1, 2, 0).numpy().astype(np.uint8)
    np.testing.assert_array_equal(published_input(rgb), expected)


def test_the_input_is_as_published_unless_told_otherwise(tmp_path):
    rgb = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    write(tmp_path, "nyuv2", STEM["nyuv2"], np.full((1, 2, 3), 200, np.uint8), rgb)
    np.testing.assert_array_equal(
        open_set(tmp_path, "normals", "nyuv2").read(0).rgb, published_input(rgb)
    )
    np.testing.assert_array_equal(open_set(tmp_path, "normals", "nyuv2", PLAIN).read(0).rgb, rgb)


def test_sizes_and_domains_are_the_published_ones():
    sets = SETS["normals"]
    assert {name: each.num_images for name, each in sets.items()} == {
        "nyuv2": 654,
        "scannet": 300,
        "ibims": 100,
        "sintel": 1064,
    }
    assert {name: each.domain for name, each in sets.items()} == {
        "nyuv2": "indoor",
        "scannet": "indoor",
        "ibims": "indoor",
        "sintel": "outdoor",
    }
    assert all((each.resolution, each.averaging) == (0, "pixels") for each in sets.values())


def test_only_the_pictures_of_the_test_count_and_what_is_incomplete_is_counted(tmp_path):
    truth = np.full((1, 2, 3), 200, np.uint8)
    for stem in ("test/000001", "test/000000", "test/000009", "train/000002"):
        write(tmp_path, "nyuv2", stem, truth)
    (tmp_path / "dsine_eval/nyuv2/test/000009_normal.png").unlink()
    samples = open_set(tmp_path, "normals", "nyuv2")
    assert [samples.name(i) for i in range(len(samples))] == [
        "test/000000_img.png",
        "test/000001_img.png",
    ]
    assert samples.left_out == {"truth file missing": 1}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:40]), "not a readable"),
        (lambda path: cv2.imwrite(str(path), np.full((1, 2, 3), 9, np.uint16)), "8-bit RGB PNG"),
        (lambda path: cv2.imwrite(str(path), np.full((1, 2), 9, np.uint8)), "8-bit RGB PNG"),
        (lambda path: cv2.imwrite(str(path), np.full((2, 2, 3), 9, np.uint8)), "its normals"),
    ],
    ids=["truncated", "16 bits", "grey", "another size"],
)
def test_a_damaged_png_is_a_sentence(tmp_path, damage, said):
    path = write(tmp_path, "nyuv2", STEM["nyuv2"], np.full((1, 2, 3), 200, np.uint8))
    damage(path.with_name(path.name + "_normal.png"))
    with pytest.raises(DataError, match=said):
        open_set(tmp_path, "normals", "nyuv2").read(0)


def test_a_damaged_exr_is_a_sentence(tmp_path):
    path = write(tmp_path, "ibims", STEM["ibims"], np.ones((4, 5, 3), np.float32))
    exr = path.with_name(path.name + "_normal.exr")
    exr.write_bytes(exr.read_bytes()[:200])
    with pytest.raises(DataError, match="exr"):
        open_set(tmp_path, "normals", "ibims").read(0)
    mi.Bitmap(np.ones((4, 5), np.float32)).write(str(exr))
    with pytest.raises(DataError, match="three channels"):
        open_set(tmp_path, "normals", "ibims").read(0)


def test_a_set_that_is_not_here_says_how_to_get_it(tmp_path):
    with pytest.raises(DataError, match=r"Sintel is not in .*dsine_eval/sintel.*baegwangbin/DSINE"):
        open_set(tmp_path, "normals", "sintel")
