import numpy as np
import pytest

from e2e_deploy.colormap import (
    DisplayRange,
    colour_depth,
    colour_normals,
    lookup_table,
    write_note,
)
from e2e_deploy.errors import UsageError
from e2e_deploy.names import COLORMAPS


@pytest.mark.parametrize("name", COLORMAPS)
def test_near_is_warm(name):
    table = lookup_table(name).astype(int)
    assert table.shape == (256, 3)
    near, far = table[20], table[235]
    assert near[0] - near[2] > far[0] - far[2]  # more red than blue
    assert len(np.unique(table, axis=0)) > 200


def test_spectral_is_that_of_matplotlibs_figures():
    table = lookup_table("spectral")
    assert table[0].tolist() == [158, 1, 66]
    assert table[255].tolist() == [94, 79, 162]
    assert table[51 * 2 + 25 - 25].tolist() == [254, 224, 139]  # the fifth of eleven stops


def test_an_unknown_name():
    with pytest.raises(UsageError, match="spectral, inferno, turbo"):
        lookup_table("jet")


def test_depth_is_stretched_and_saturates():
    depth = np.array([[0.0, 0.2, 0.4, 0.6, 1.0]], np.float32)
    table = lookup_table("turbo")
    got = colour_depth(depth, "turbo", 0.2, 0.6)
    np.testing.assert_array_equal(got[0, [0, 1]], table[[0, 0]])
    np.testing.assert_array_equal(got[0, [3, 4]], table[[255, 255]])
    np.testing.assert_array_equal(got[0, 2], table[127])


def test_flat_depth_has_one_colour():
    got = colour_depth(np.full((4, 4), 0.5, np.float32), "inferno", 0.5, 0.5)
    assert len(np.unique(got.reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize("name", COLORMAPS)
def test_unknown_is_grey_and_nothing_else_is(name):
    depth = np.array([[np.nan, np.inf, -np.inf, 0.0, 1.0]], np.float32)
    table = lookup_table(name)
    got = colour_depth(depth, name, 0, 1)
    assert got[0, :3].tolist() == [[128, 128, 128]] * 3
    np.testing.assert_array_equal(got[0, 3:], table[[0, 255]])
    assert np.abs(table.astype(int) - 128).max(axis=1).min() > 30
    normals = np.array([[[np.nan, 0, 1], [0, 0, 1]]], np.float32)
    assert colour_normals(normals)[0].tolist() == [[128, 128, 128], [128, 128, 255]]


def test_normals_facing_the_viewer_are_violet_blue():
    axes = np.array([[[0, 0, 1], [1, 0, 0], [0, -1, 0]]], np.float32)
    assert colour_normals(axes).tolist() == [[[128, 128, 255], [255, 128, 128], [128, 0, 128]]]


def test_the_display_range_is_percentiles_at_first_and_follows_slowly(rng):
    first, second = rng.random((2, 100, 100)).astype(np.float32)
    display = DisplayRange(0.1)
    low, high = display.update(first)
    assert (low, high) == pytest.approx(np.percentile(first, (2, 98)))
    expected = low + 0.1 * (np.percentile(second + 1, 2) - low)
    assert display.update(second + 1)[0] == pytest.approx(expected)


def test_following_at_once_is_per_picture(rng):
    display = DisplayRange(1.0)
    display.update(rng.random((50, 50)).astype(np.float32))
    picture = rng.random((50, 50)).astype(np.float32) * 7
    assert display.update(picture) == pytest.approx(np.percentile(picture, (2, 98)))


def test_one_bad_frame_does_not_spoil_the_range_for_good(rng):
    good = rng.random((60, 60)).astype(np.float32)
    bad = good.copy()
    bad[5, 5] = np.nan
    display = DisplayRange()
    before = display.update(good)
    assert np.isfinite(display.update(bad)).all()
    assert display.update(np.full_like(good, np.nan)) == pytest.approx(before, abs=0.01)
    assert DisplayRange().update(np.full((3, 3), np.nan, np.float32)) == (0, 1)


def test_a_note_is_drawn_on_a_copy():
    picture = np.zeros((100, 200, 3), np.uint8)
    assert write_note(picture, "") is picture
    marked = write_note(picture, "untrained weights")
    assert marked.max() == 255
    assert picture.max() == 0
