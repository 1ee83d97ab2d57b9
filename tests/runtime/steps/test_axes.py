import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from e2e_deploy.runtime.camera.axes import CAMERA, OPTICAL, flipped
from e2e_deploy.runtime.sinks.sink import about
from e2e_deploy.runtime.steps.axes import in_camera_axes, optical
from tests.sink_inputs import painter, result_for, source_frame

normals = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=6).map(lambda hw: (*hw, 3)),
    elements=st.floats(-1, 1, width=32),
)


@given(normals)
def test_turning_twice_is_nothing_and_lengths_stay(normals):
    before = normals.copy()
    turned = flipped(normals)
    np.testing.assert_array_equal(normals, before)  # others may hold it
    np.testing.assert_array_equal(flipped(turned), normals)
    np.testing.assert_array_equal(np.linalg.norm(turned, axis=2), np.linalg.norm(normals, axis=2))
    assert turned.dtype == np.float32


def test_what_faces_the_camera_looks_back_along_its_axis_and_a_floor_points_down():
    """Optical axes: z goes away from the camera, y to the ground."""
    facing, floor, right = [0, 0, 1], [0, 1, 0], [1, 0, 0]
    turned = flipped(np.array([[facing, floor, right]], dtype=np.float32))
    np.testing.assert_array_equal(turned, [[[0, 0, -1], [0, -1, 0], [1, 0, 0]]])


def test_unknown_pixels_stay_unknown():
    assert np.isnan(flipped(np.full((1, 1, 3), np.nan, np.float32))).all()


def test_sidecars_say_which_axes_and_colours_stay_as_they_are(manifests, rng):
    manifest, frame = manifests["normals"], source_frame(rng)
    result, facts = result_for("normals", rng), {}
    told = about(manifest, frame, result, {})
    assert told["axes"] == CAMERA
    assert CAMERA in told["meaning"]
    turned = optical()(frame, result, facts)
    told = about(manifest, frame, turned, facts)
    assert told["axes"] == OPTICAL
    assert OPTICAL in told["meaning"]
    np.testing.assert_array_equal(in_camera_axes(turned, facts), result)
    np.testing.assert_array_equal(
        painter(manifest, False)(turned, facts), painter(manifest, False)(result, {})
    )
