"""Which topics results become, with which numbers; the bytes are read by another library."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.errors import UsageError
from e2e_deploy.kinds import KINDS
from e2e_deploy.names import RESULT_KINDS
from e2e_deploy.runtime.camera.axes import OPTICAL, flipped
from e2e_deploy.runtime.camera.camera_info import CameraInfo
from e2e_deploy.runtime.camera.intrinsics import Intrinsics
from e2e_deploy.runtime.ros import cdr
from e2e_deploy.runtime.ros.topics import (
    FRAME_ID,
    Topics,
    camera_topic,
    is_rectified,
    millimetres,
    prefix_of,
)
from e2e_deploy.runtime.sources.source import SourceFrame
from tests.plain_bundle import write_plain_bundle
from tests.ros_peer import peer
from tests.sink_inputs import result_for

HW = (24, 32)
STAMP = 1_700_000_000_123_456_789
CAMERA = CameraInfo.of(Intrinsics(40.0, 42.0, 15.0, 11.5), HW)
METRIC = {"metric": True, "metric_fit": {"scale": 1.0}, "range": [0.001, 65.535]}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return open_bundle(write_plain_bundle(tmp_path_factory.mktemp("ros") / "b")).manifest


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def frame(rng, hw=HW, camera=CAMERA, frame_id="left_optical"):
    rgb = rng.integers(0, 256, (*hw, 3), dtype=np.uint8)
    return SourceFrame(rgb, 0, None, "a", stamp_ns=STAMP, frame_id=frame_id, camera=camera)


def metres(rng, hw=HW):
    depth = rng.uniform(0.5, 20.0, hw).astype(np.float32)
    depth[0, :4] = np.nan, np.inf, -np.inf, 1e-7
    return depth


def sent(topics, shot, *results):
    """Each message of a frame by the last name of its topic, read by the other library."""
    found = topics.messages_for(shot, results)
    assert len({each.topic for each in found}) == len(found)
    return {
        each.topic.rsplit("/", 1)[1]: peer(cdr.serialise(each.message), each.message.type_name)
        for each in found
    }


def pixels(message, dtype, channels=1):
    found = np.frombuffer(bytes(message.data), dtype).reshape(message.height, message.width, -1)
    assert message.step == message.width * channels * np.dtype(dtype).itemsize
    return found[..., 0] if channels == 1 else found


def test_depth_of_unknown_scale_is_never_called_depth(manifest, rng):
    affine = result_for("depth", rng, HW)
    affine[3, 3] = np.nan
    found = sent(Topics(manifest), frame(rng), (KINDS["depth"], affine, {"steady": {"scale": 1.1}}))
    assert set(found) == {"metadata", "depth_affine", "camera_info"}
    assert found["depth_affine"].encoding == "32FC1"
    assert pixels(found["depth_affine"], "<f4").tobytes() == affine.tobytes()
    (told,) = json.loads(found["metadata"].data)["results"]
    assert told["topic"] == "/e2e_deploy/depth_affine"
    assert told["units"] == "none: scale and shift are unknown (not metric)"
    assert (told["metric"], told["steady"], told["range"]) == (False, True, [0.0, 1.0])


@pytest.mark.parametrize("kind", ["depth", "disparity", "sqrt-disparity"])
def test_metres_are_depth_whatever_they_are_made_of(manifest, rng, kind):
    depth = metres(rng)
    found = sent(Topics(manifest), frame(rng), (KINDS[kind], depth, METRIC))
    assert set(found) == {"metadata", "depth", "camera_info", "points"}
    assert pixels(found["depth"], "<f4").tobytes() == depth.tobytes()  # NaN, +Inf, -Inf: REP-117
    (told,) = json.loads(found["metadata"].data)["results"]
    assert (told["kind"], told["units"], told["made_of"]) == ("depth", "metres", kind)
    affine = sent(Topics(manifest), frame(rng), (KINDS[kind], depth, {}))
    assert f"{kind.replace('-', '_')}_affine" in affine
    assert not {"depth", "points"} & set(affine)


def test_every_message_has_the_stamp_and_the_frame_of_the_picture(manifest, rng):
    results = [
        (KINDS["depth"], metres(rng), METRIC),
        (KINDS["normals"], result_for("normals", rng, HW), {}),
    ]
    topics = Topics(manifest, with_picture=True, with_millimetres=True)
    found = sent(topics, frame(rng), *results)
    assert set(found) == {
        *("metadata", "image", "depth", "depth_raw", "normals", "camera_info", "points")
    }
    for name, message in found.items():
        if name != "metadata":
            stamp = message.header.stamp
            assert stamp.sec * 10**9 + stamp.nanosec == STAMP
            assert message.header.frame_id == "left_optical"
    unnamed = sent(Topics(manifest), frame(rng, frame_id=""), *results)
    assert {m.header.frame_id for name, m in unnamed.items() if name != "metadata"} == {FRAME_ID}


def test_the_picture_itself(manifest, rng):
    shot = frame(rng)
    found = sent(Topics(manifest, with_picture=True), shot)
    assert found["image"].encoding == "rgb8"
    assert np.array_equal(pixels(found["image"], np.uint8, 3), shot.rgb)


@pytest.mark.parametrize("turned", [False, True])
def test_normals_are_in_the_optical_frame_and_turned_once(manifest, rng, turned):
    """A floor seen from above: its normal points up, which is -y there."""
    normals = result_for("normals", rng, HW)
    normals[0, 0] = 0.0, 1.0, 0.0
    given, facts = (flipped(normals), {"axes": OPTICAL}) if turned else (normals, {})
    found = sent(Topics(manifest), frame(rng), (KINDS["normals"], given, facts))
    message = found["normals"]
    assert message.encoding == "32FC3"
    read = pixels(message, "<f4", 3)
    assert read[0, 0].tolist() == [0.0, -1.0, 0.0]
    assert np.array_equal(read, normals * np.float32([1, -1, -1]))
    (told,) = json.loads(found["metadata"].data)["results"]
    assert told["axes"] == "x right, y down, z forward"
    assert told["meaning"].endswith(told["axes"])


def test_what_is_looked_at_has_eight_bits_and_what_is_reckoned_with_floats(manifest, rng):
    """No kind is forgotten here."""
    expected = {"mask": "rgb8", "albedo": "rgb8", "matte": "mono8", "normals": "32FC3"}
    expected |= dict.fromkeys(("linear-albedo", "material", "shading", "residual"), "32FC3")
    expected |= dict.fromkeys(("depth", "disparity", "sqrt-disparity"), "32FC1")
    for name in RESULT_KINDS:
        kind = KINDS[name]
        result = rng.random(kind.result_shape(*HW), dtype=np.float32)
        result.flat[0] = np.nan
        (message,) = (
            message
            for topic, message in sent(Topics(manifest), frame(rng), (kind, result, {})).items()
            if topic.removesuffix("_affine") == kind.output
        )
        assert message.encoding == expected[name], name
        if message.encoding.endswith("8"):
            read = pixels(message, np.uint8, kind.channels)
            exact = np.rint(np.nan_to_num(result.astype(np.float64)) * 255)
            assert np.abs(read - exact).max() <= 1


def test_points_are_the_formula_of_a_pinhole(manifest, rng):
    shot, depth = frame(rng), metres(rng)
    cloud = sent(Topics(manifest), shot, (KINDS["depth"], depth, METRIC))["points"]
    assert [(f.name, f.offset, f.datatype, f.count) for f in cloud.fields] == [
        (name, 4 * i, 7, 1) for i, name in enumerate(("x", "y", "z", "rgb"))
    ]
    assert (cloud.height, cloud.width) == HW
    assert (cloud.point_step, cloud.row_step) == (16, 16 * HW[1])
    assert not cloud.is_dense
    floats = np.frombuffer(bytes(cloud.data), "<f4").reshape(*HW, 4)
    assert np.isnan(floats[0, :3, :3]).all()  # whatever is no number has no place
    v, u = np.mgrid[: HW[0], : HW[1]].astype(np.float64)
    z = depth.astype(np.float64)
    exact = np.stack([(u - 15.0) * z / 40.0, (v - 11.5) * z / 42.0, z], axis=-1)
    known = np.isfinite(depth)
    assert np.allclose(floats[known][:, :3], exact[known], rtol=2e-7, atol=0)
    packed = np.frombuffer(bytes(cloud.data), "<u4").reshape(*HW, 4)[..., 3]
    red, green, blue = np.moveaxis(shot.rgb.astype(int), 2, 0)
    assert np.array_equal(packed, red * 65536 + green * 256 + blue)


@given(
    hnp.arrays(np.float32, (16, 16), elements=st.floats(0.125, 128, width=32)),
    st.floats(10, 1000),
    st.floats(0, 15),
)
def test_points_are_seen_where_they_came_from(depth, focal, centre):
    from e2e_deploy.runtime.ros.cameras import rays
    from e2e_deploy.runtime.ros.messages import Header
    from e2e_deploy.runtime.ros.topics import point_cloud

    camera = CameraInfo.of(Intrinsics(focal, focal, centre, centre), (16, 16))
    cloud = point_cloud(Header(), depth, rays(camera), np.zeros((16, 16, 3), np.uint8))
    x, y, z, _ = np.moveaxis(cloud.data.view("<f4").reshape(16, 16, 4).astype(np.float64), 2, 0)
    v, u = np.mgrid[:16, :16]
    assert cloud.is_dense
    assert np.allclose(focal * x / z + centre, u, atol=2e-5 * focal)
    assert np.allclose(focal * y / z + centre, v, atol=2e-5 * focal)


def test_the_camera_fits_the_result(manifest, rng):
    """A camera for pictures of twice the size, as of a scaled topic: its centre is scaled with the pixels' edges."""
    large = CameraInfo.of(Intrinsics(80.0, 84.0, 30.5, 23.5), (48, 64))
    found = sent(Topics(manifest), frame(rng, camera=large), (KINDS["depth"], metres(rng), METRIC))
    said = found["camera_info"]
    assert (said.height, said.width) == HW
    assert np.allclose(said.k, [40.0, 0, 15.0, 0, 42.0, 11.5, 0, 0, 1])
    assert np.allclose(said.p, [40.0, 0, 15.0, 0, 0, 42.0, 11.5, 0, 0, 0, 1, 0])
    cloud = np.frombuffer(bytes(found["points"].data), "<f4").reshape(*HW, 4)
    assert cloud[5, 20, 0] == pytest.approx((20 - 15.0) * cloud[5, 20, 2] / 40.0)


def test_what_the_user_says_of_the_camera_goes_first(manifest, rng):
    topics = Topics(manifest, intrinsics=Intrinsics(7.0, 8.0, 9.0, 10.0))
    said = sent(topics, frame(rng), (KINDS["depth"], metres(rng), METRIC))["camera_info"]
    assert list(said.k) == [7.0, 0, 9.0, 0, 8.0, 10.0, 0, 0, 1]


@pytest.mark.parametrize(
    "camera",
    [None, CameraInfo(*HW, (0.0,) * 9, (0.0,) * 12)],
)
def test_a_camera_that_nobody_knows_has_no_points(manifest, rng, camera):
    found = sent(Topics(manifest), frame(rng, camera=camera), (KINDS["depth"], metres(rng), METRIC))
    assert set(found) == {"metadata", "depth"}


def test_a_lens_that_cannot_be_undone_has_a_camera_and_no_points(manifest, rng):
    odd = CameraInfo(*HW, CAMERA.k, CAMERA.p, "somebody's", (0.1, 0.2))
    found = sent(Topics(manifest), frame(rng, camera=odd), (KINDS["depth"], metres(rng), METRIC))
    assert set(found) == {"metadata", "depth", "camera_info"}
    assert found["camera_info"].distortion_model == "somebody's"
    assert "somebody's" in json.loads(found["metadata"].data)["points"]


def test_points_are_left_out_where_they_are_not_wanted(manifest, rng):
    found = sent(
        Topics(manifest, with_points=False), frame(rng), (KINDS["depth"], metres(rng), METRIC)
    )
    assert "points" not in found


def test_metadata_are_latched_and_said_again_only_when_they_change(manifest, rng):
    topics, depth = Topics(manifest, "/cam/e2e_deploy"), metres(rng)
    first = topics.messages_for(frame(rng), [(KINDS["depth"], depth, METRIC)])
    assert [each.latched for each in first] == [True, *[False] * (len(first) - 1)]
    assert first[0].topic == "/cam/e2e_deploy/metadata"
    told = json.loads(first[0].message.data)
    assert told["frame_id"] == "left_optical"
    assert told["stamps"].startswith("capture")
    assert told["model"]["note"] == manifest.checkpoint.note
    other_fit = METRIC | {"metric_fit": {"scale": 2.0}}
    again = topics.messages_for(frame(rng), [(KINDS["depth"], depth, other_fit)])
    assert not [each for each in again if each.latched]
    changed = topics.messages_for(frame(rng), [(KINDS["depth"], depth, {})])
    assert [each.topic for each in changed if each.latched] == ["/cam/e2e_deploy/metadata"]


def test_millimetres_saturate_and_what_is_no_number_is_zero():
    depth = np.float32(
        [[np.nan, np.inf, -np.inf, -1.0, 0.0, 0.0004], [0.0006, 1.0, 65.534, 65.535, 65.6, 1e30]]
    )
    assert millimetres(depth).tolist() == [
        [0, 0, 0, 0, 0, 0],
        [1, 1000, 65534, 65535, 65535, 65535],
    ]
    assert millimetres(depth).dtype == np.uint16


@given(hnp.arrays(np.float32, (4, 4), elements=st.floats(width=32, allow_subnormal=False)))
def test_millimetres_of_any_floats(depth):
    found = millimetres(depth)
    known = np.isfinite(depth) & (depth > 0.001) & (depth < 65.535)
    assert np.abs(found[known] - depth[known].astype(np.float64) * 1000).max(initial=0) <= 0.5
    assert not found[~np.isfinite(depth) | (depth <= 0)].any()


@pytest.mark.parametrize("task", ["depth", "disparity", "geometry", "normals", "lighting"])
@pytest.mark.parametrize("is_metric", [False, True])
def test_what_is_advertised_is_what_comes(tmp_path, rng, task, is_metric):
    made = open_bundle(write_plain_bundle(tmp_path / "b", task=task)).manifest
    topics = Topics(made, with_picture=True, with_millimetres=True)
    results = [
        (
            kind,
            rng.random(kind.result_shape(*HW), dtype=np.float32),
            {"metric": True} if is_metric else {},
        )
        for kind in made.kinds
    ]
    came = [
        (each.topic, type(each.message), each.latched)
        for each in topics.messages_for(frame(rng), results)
    ]
    assert sorted(came, key=str) == sorted(topics.advertised(is_metric=is_metric), key=str)


@pytest.mark.parametrize(
    ("topic", "prefix"),
    [
        ("", "/e2e_deploy"),
        ("/image_raw", "/e2e_deploy"),
        ("/camera/image_raw", "/camera/e2e_deploy"),
        ("/camera/color/image_raw/compressed", "/camera/color/e2e_deploy"),
        ("camera/image", "/camera/e2e_deploy"),
    ],
)
def test_topics_stand_beside_the_picture(topic, prefix):
    assert prefix_of(topic) == prefix
    assert camera_topic(topic) == prefix.replace("e2e_deploy", "camera_info")


@pytest.mark.parametrize(
    ("topic", "prefix"),
    [
        ("/cam-1/0/image", "/cam_1/_0/e2e_deploy"),
        ("/a//b.c/é/image", "/a/b_c/_/e2e_deploy"),
        ("/\x1b[2J/image\n", "/__2J/e2e_deploy"),
    ],
)
def test_names_that_are_none_of_ros_become_such(manifests, topic, prefix):
    assert prefix_of(topic) == prefix
    Topics(manifests["depth"], prefix_of(topic))


def test_rectified_pictures_by_their_name():
    assert is_rectified("/camera/image_rect_color/compressed")
    assert is_rectified("/camera/image_rect")
    assert not is_rectified("/rectified/image_raw")


@pytest.mark.parametrize("prefix", ["", "e2e", "/", "/a/", "/a//b", "/a b", "/1a", "/a/-"])
def test_a_prefix_that_is_no_name_is_refused(manifest, prefix):
    with pytest.raises(UsageError, match="topics' prefix is"):
        Topics(manifest, prefix)
