"""Parameters that change while the node runs, and what may not."""

import json
import threading
from dataclasses import replace

import numpy as np
import pytest
from e2e_deploy_ros2.parameters import DEFAULTS, PARAMETERS

from e2e_deploy.runtime.camera.camera_info import CameraInfo
from tests.examples.ros2.pictures import (
    CAMERA,
    camera_info,
    picture,
    values,
    wait_until,
)
from tests.plain_bundle import HW

BLIND = CameraInfo(*HW, (0.0,) * 9, (0.0,) * 12)


def test_metres_appear_only_where_they_are_asked_for(node, plain, published):
    topics = node.configure(
        {
            "bundle": str(plain),
            "metric": "ground",
            "publish_points": True,
            "publish_millimetres": True,
            "publish_picture": True,
        }
    )
    names = {name.rpartition("/")[2] for name, _, _ in topics}
    assert names == {"metadata", "depth", "depth_raw", "image", "camera_info", "points"}
    node.activate()
    node.on_picture(picture(0))
    told = node.diagnose()
    assert (told.level, told.message) == (
        "WARN",
        "metric: ground waits for a camera_info (none came)",
    )
    blind = camera_info(camera=BLIND)
    node.on_camera_info(blind)
    assert node.diagnose().message.endswith("(it is not calibrated)")
    node.on_camera_info(replace(blind, p=np.full(12, np.nan)))
    assert node.diagnose().message.endswith("(a CameraInfo holds values that are no numbers)")
    node.on_camera_info(camera_info())
    assert values(node)["camera_info"] == "calibrated"
    node.on_picture(picture(1))
    wait_until(lambda: published.of("points"))
    assert published.indices("depth") == [1]
    assert {each.topic.rpartition("/")[2] for each in published} == names
    assert {each.topic for each in published} <= {name for name, _, _ in topics}


def test_reconfiguration_while_it_runs_keeps_the_engine(active, published):
    engine = active._engine
    active.on_picture(picture(0))
    wait_until(lambda: published.indices() == [0])
    assert not active.refusal({"steady": True})
    active.reconfigure({"steady": True})
    active.on_picture(picture(1))
    wait_until(lambda: published.indices() == [0, 1])
    assert active._engine is engine
    assert not engine.closed
    first, last = (json.loads(each.data)["results"][0] for each in published.of("metadata"))
    assert "steady" not in first
    assert last["steady"]


def test_reconfiguration_in_the_middle_of_a_frame(active, published, gate):
    active.on_picture(picture(0))
    wait_until(lambda: gate.begun == 1)
    threading.Timer(0.1, gate.open).start()
    active.reconfigure({"steady": True})
    active.on_picture(picture(1))
    wait_until(lambda: published.indices() == [0, 1])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"bundle": "other"},
            "bundle cannot change while the node is configured: clean it up first",
        ),
        ({"metric": "ground"}, "metric cannot change while the node is configured"),
        ({"camera_height_m": -1.0}, "camera_height_m is -1; it is from 0.01 to 1000"),
        ({"camera_height_m": float("nan")}, "camera_height_m is nan"),
        ({"intrinsics": "a"}, "intrinsics are fx,fy,cx,cy"),
        ({"steady": "yes"}, "steady is true or false, not 'yes'"),
        ({"steady": True, "parity_every": -1}, "parity_every is -1; it is from 0"),
    ],
)
def test_changes_that_cannot_be_are_refused(active, changes, says):
    assert active.refusal(changes).startswith(says)


def test_parameters_of_others_are_not_ours_to_judge(active, published):
    run = active._run
    assert not active.refusal({"use_sim_time": True})
    active.reconfigure({"use_sim_time": True})
    assert active._run is run
    assert "use_sim_time" not in active.parameters


def test_what_may_change_may_be_asked_for_at_any_time(node, plain):
    for name, parameter in PARAMETERS.items():
        assert not node.refusal({name: DEFAULTS[name]})
        assert not parameter.refusal(parameter.default)
    node.configure({"bundle": str(plain)})
    live = {name for name in PARAMETERS if not node.refusal({name: DEFAULTS[name]})}
    assert live == {name for name, parameter in PARAMETERS.items() if parameter.live}
    assert "steady" in live


def test_another_camera_begins_anew_where_metres_depend_on_it(node, plain):
    node.configure({"bundle": str(plain), "metric": "ground"})
    node.activate()
    node.on_camera_info(camera_info())
    first = node._run
    node.on_camera_info(camera_info(1))
    assert node._run is first
    node.on_camera_info(camera_info(2, camera=CAMERA.resized((48, 64))))
    assert node._run is not first


def test_a_camera_that_is_not_calibrated_begins_nothing_anew(node, plain):
    """It says so with every picture, and the intrinsics are the user's."""
    node.configure({"bundle": str(plain), "metric": "ground", "intrinsics": "40,42,15,11"})
    node.activate()
    first = node._run
    for index in range(3):
        node.on_camera_info(camera_info(index, camera=BLIND))
    assert node._run is first
    assert values(node)["camera_info"] == "it is not calibrated"


def test_a_camera_of_pictures_of_another_size_makes_no_metres(node, plain, published):
    node.configure({"bundle": str(plain), "metric": "ground", "publish_points": True})
    node.activate()
    node.on_camera_info(camera_info(camera=CAMERA.resized((48, 64))))
    node.on_picture(picture(0))
    wait_until(lambda: values(node)["damaged"] == "1")
    assert node._run.source.notes == [
        "the camera_info is for pictures of 64x48, and those of /front/image_raw are 32x24"
    ]
    node.on_camera_info(camera_info(1))
    node.on_picture(picture(1))
    wait_until(lambda: published.of("points"))
    assert published.indices("depth") == [1]


def test_a_camera_of_pictures_of_another_size_is_not_published(active, published):
    active.on_camera_info(camera_info(camera=CAMERA.resized((48, 64))))
    active.on_picture(picture(0))
    wait_until(lambda: published.indices() == [0])
    active.on_picture(picture(1))
    wait_until(lambda: published.indices() == [0, 1])
    assert not published.of("camera_info")
    assert "the camera_info is for pictures of 64x48" in active._run.source.notes[0]
