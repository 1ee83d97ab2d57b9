import numpy as np

from e2e_deploy.train.pictures import captioned_rows, comparison_row


def test_aligned_depth_looks_like_its_target():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 255, (10, 12, 3), dtype=np.uint8)
    depth = rng.uniform(1, 5, (10, 12)).astype(np.float32)
    valid = np.ones((10, 12), bool)
    row = comparison_row(rgb, depth, 0.2 * depth - 1, valid, "depth")
    assert row.shape == (10, 36, 3)
    np.testing.assert_array_equal(row[:, :12], rgb)
    assert np.abs(row[:, 12:24].astype(int) - row[:, 24:]).max() <= 8  # a step of the colour map
    valid[:5] = False
    assert not comparison_row(rgb, depth, depth, valid, "depth")[:5, 12:24].any()


def test_nan_and_empty_targets_are_drawn():
    rgb = np.zeros((4, 4, 3), np.uint8)
    depth = np.ones((4, 4), np.float32)
    nothing = np.zeros((4, 4), bool)
    assert comparison_row(rgb, depth, np.full((4, 4), np.nan), nothing, "depth").shape == (4, 12, 3)


def test_vectors_of_any_length_are_drawn_as_unit_vectors():
    rgb = np.zeros((2, 2, 3), np.uint8)
    target = np.broadcast_to(np.float32([0, 0.6, 0.8]), (2, 2, 3))
    row = comparison_row(rgb, target, 3 * target, np.ones((2, 2), bool), "normals")
    np.testing.assert_array_equal(row[:, 2:4], row[:, 4:6])
    np.testing.assert_array_equal(row[0, 2], [128, 204, 230])


def test_rows_stand_under_each_other():
    row = np.full((24, 96, 3), 7, np.uint8)
    sheet = captioned_rows([row, row], ["one", "two"])
    assert sheet.shape == (2 * (18 + 240), 960, 3)


def test_disparity_is_drawn_against_depth_with_near_in_the_colour_of_near():
    depth = np.float32([[1, 2], [4, 8]])
    rgb, valid = np.zeros((2, 2, 3), np.uint8), np.ones((2, 2), bool)
    row = comparison_row(rgb, depth, 3 / depth + 1, valid, "disparity")
    assert np.abs(row[:, 2:4].astype(int) - row[:, 4:6]).max() <= 8
    near, far = row[0, 2], row[1, 3]
    as_depth = comparison_row(rgb, depth, depth, valid, "depth")
    np.testing.assert_array_equal([near, far], [as_depth[0, 2], as_depth[1, 3]])


def test_masks_and_mattes_are_drawn_as_they_are():
    rgb, valid = np.zeros((1, 2, 3), np.uint8), np.ones((1, 2), bool)
    matte = np.float32([[0.2, 1]])
    row = comparison_row(rgb, matte, np.float32([[-1, 2]]), valid, "matte")
    np.testing.assert_array_equal(row[0, :, 1], [0, 0, 51, 255, 0, 255])
    mask = np.float32([[[1, 0, 0.2], [np.nan] * 3]])
    row = comparison_row(rgb, mask, mask, valid, "mask")
    np.testing.assert_array_equal(row[0, 2:4], [[255, 0, 51], [0, 0, 0]])
