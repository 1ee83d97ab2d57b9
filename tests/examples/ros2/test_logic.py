"""What the node does, without ROS: newest frame, states, reconfiguration, what is refused, what it says of itself."""

import json
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from e2e_deploy_ros2 import logic as module
from e2e_deploy_ros2.logic import ACTIVE, FINALIZED, INACTIVE, UNCONFIGURED, DepthLogic, StateError
from e2e_deploy_ros2.parameters import DEFAULTS, PARAMETERS

import e2e_deploy as e2e
from e2e_deploy.runtime.camera.camera_info import CameraInfo
from tests.examples.ros2.pictures import (
    CAMERA,
    Gate,
    Published,
    camera_info,
    damaged,
    picture,
    record,
    replay,
    rgb_of,
    stamp_of,
    wait_until,
)
from tests.plain_bundle import HW, plain_depth
from tests.videos import real_clip

TOPIC = "/front/image_raw"


@pytest.fixture
def published():
    return Published()


@pytest.fixture
def node(published):
    made = DepthLogic(TOPIC, published.append, now_ns=lambda: stamp_of(1000))
    yield made
    made.shutdown()


@pytest.fixture
def active(node, plain):
    node.configure({"bundle": str(plain), "backend": "onnxruntime", "device": "cpu"})
    node.activate()
    return node


@pytest.fixture
def gate(monkeypatch):
    made = Gate(monkeypatch)
    yield made
    made.open()


def values(node):
    return dict(node.diagnose().values)


# ------------------------------------------------------------------------------------------- newest frame


def test_a_result_is_that_of_its_picture(active, published):
    active.on_camera_info(camera_info())
    active.on_picture(picture(51))
    wait_until(lambda: published.of("camera_info"))
    (depth,) = published.of("depth_affine")
    assert {each.topic.rpartition("/")[0] for each in published} == {"/front/e2e_deploy"}
    assert depth.header.frame_id == "front_optical_frame"
    assert depth.header.stamp.ns == stamp_of(51)
    numbers = depth.data.view("<f4").reshape(HW)
    assert np.allclose(numbers, plain_depth(rgb_of(51)), atol=1e-6)
    (about,) = published.of("camera_info")
    assert about.header == depth.header
    assert tuple(about.k) == CAMERA.k
    (told,) = published.of("metadata")
    assert json.loads(told.data)["results"][0]["topic"] == "/front/e2e_deploy/depth_affine"


def test_a_slow_engine_takes_the_newest_and_drops_the_oldest(active, published, gate):
    active.on_picture(picture(0))
    wait_until(lambda: gate.begun == 1)
    for index in range(1, 30):  # a second of a camera, while it computes one frame
        active.on_picture(picture(index))
    gate.let()
    wait_until(lambda: gate.begun == 2)
    for index in range(30, 60):
        active.on_picture(picture(index))
    gate.open()
    wait_until(lambda: len(published.indices()) == 3)
    assert published.indices() == [0, 29, 59]
    told = values(active)
    assert (told["received"], told["dropped"], told["published"]) == ("60", "57", "3")


def test_latency_is_bounded_at_30_hz(active, published, monkeypatch, tmp_path):
    """Two seconds of a recorded clip as it was recorded, into an engine that takes three pictures' time for one.

    Nothing piles up: a result is never further behind the newest picture than the engine took for it, and the one that
    waited. How long that was is measured here, as this machine does it.
    """
    newest, behind, took = [-1], [], []
    collect = e2e.Engine.collect

    def slow(engine, slot):
        before = newest[0]
        time.sleep(0.1)
        result = collect(engine, slot)
        took.append(newest[0] - before)  # in pictures
        return result

    def publish(each):
        published.append(each)
        if each.topic.endswith("/depth_affine"):
            behind.append(newest[0] - published.indices()[-1])

    def take(index, message):
        newest[0] = index
        active.on_picture(message)

    monkeypatch.setattr(e2e.Engine, "collect", slow)
    active._publish = publish
    record(tmp_path / "log", real_clip(), 60)
    replay(tmp_path / "log", take)
    wait_until(lambda: published.indices()[-1:] == [59])
    indices = published.indices()
    assert indices == sorted(set(indices))  # in order, none twice
    assert 3 < len(indices) < 40
    assert max(behind) <= max(took) + 3
    told = values(active)
    assert told["received"] == "60"
    assert int(told["dropped"]) == 60 - len(indices)
    assert float(told["latency p99 (ms)"]) >= float(told["latency p50 (ms)"]) >= 100


def test_damaged_pictures_are_counted_and_skipped(active, published):
    active.on_picture(picture(0))
    wait_until(lambda: published.indices() == [0])
    active.on_picture(damaged(1))
    wait_until(lambda: values(active)["damaged"] == "1")
    active.on_picture(picture(2, hw=(8, 8)))
    wait_until(lambda: values(active)["damaged"] == "2")
    active.on_picture(picture(3, hw=(40, 20)))  # of another size, it is fitted
    wait_until(lambda: len(published.indices()) == 2)
    assert published.indices() == [0, 3]
    assert (published.of("depth_affine")[1].height, published.of("depth_affine")[1].width) == (
        40,
        20,
    )


# ------------------------------------------------------------------------------------------- states


def test_the_states_and_what_each_refuses(node, plain, published):
    assert node.state == UNCONFIGURED
    for wrong in (node.activate, node.deactivate, node.cleanup):
        with pytest.raises(StateError, match="the node is unconfigured"):
            wrong()
    topics = node.configure({"bundle": str(plain)})
    assert [(name, latched) for name, _, latched in topics] == [
        ("/front/e2e_deploy/metadata", True),
        ("/front/e2e_deploy/depth_affine", False),
        ("/front/e2e_deploy/camera_info", False),
    ]
    with pytest.raises(StateError):
        node.configure({"bundle": str(plain)})
    node.on_picture(picture(0))
    node.activate()
    node.on_picture(picture(1))
    wait_until(lambda: published.indices() == [1])
    assert node.deactivate()
    node.on_picture(picture(2))
    node.activate()
    node.on_picture(picture(3))
    wait_until(lambda: published.indices() == [1, 3])
    assert node.deactivate()
    engine = node._engine
    assert node.cleanup()
    assert engine.closed
    assert node.state == UNCONFIGURED
    node.configure({"bundle": str(plain)})
    assert node.state == INACTIVE


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"bundle": "/nowhere"}, "/nowhere"),
        ({"backend": "coreml"}, "backend is 'coreml'; it is one of auto"),
        ({"qos_depth": 0}, "qos_depth is 0; it is from 1 to 100"),
        ({"qos_depth": 2.5}, "qos_depth is a whole number, not 2.5"),
        ({"steady": 1}, "steady is true or false, not 1"),
        ({"frame_size": "big"}, "not a frame size"),
        ({"frame_size": "480x640"}, "480"),
        ({"prefix": "no slash"}, "prefix is 'no slash'"),
        ({"intrinsics": "1,2"}, "intrinsics are fx,fy,cx,cy"),
        ({"publish_points": True}, "publish_points needs metric depth"),
        ({"metric": "points"}, "metric: points needs metric_points, a file"),
        ({"metric": "points", "metric_points": "/nowhere.csv"}, "/nowhere.csv"),
        ({"device": "tpu"}, "tpu"),
    ],
)
def test_bad_parameters_are_refused_with_a_reason(node, plain, changes, says):
    with pytest.raises(e2e.E2EDeployError, match=says) as told:
        node.configure({"bundle": str(plain)} | changes)
    assert "\n" not in str(told.value)
    assert node.state == UNCONFIGURED
    assert node._engine is None
    node.configure({"bundle": str(plain)})  # and it goes on


def test_what_a_bundle_cannot_is_refused(node, tmp_path):
    from tests.plain_bundle import write_plain_bundle

    normals = write_plain_bundle(tmp_path / "normals", task="normals")
    for changes in ({"steady": True}, {"metric": "ground"}):
        with pytest.raises(
            e2e.UsageError, match="is for depth and disparity, and the bundle gives normals"
        ):
            node.configure({"bundle": str(normals)} | changes)
    pair = write_plain_bundle(tmp_path / "pair", batch=2)
    with pytest.raises(e2e.UsageError, match="2 frames at once"):
        node.configure({"bundle": str(pair)})


def test_deactivation_in_the_middle_of_a_frame_waits_for_it(active, published, gate):
    active.on_picture(picture(0))
    wait_until(lambda: gate.begun == 1)
    active.on_picture(picture(1))  # waits, and will never be computed
    threading.Timer(0.1, gate.open).start()
    assert active.deactivate()
    assert published.indices() == [0]
    assert active.state == INACTIVE


def test_shutdown_in_the_middle_of_a_frame(active, published, gate, monkeypatch):
    """One that does not end in time is left behind: nothing of it is published, and nothing waits for it."""
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    active.on_picture(picture(0))
    wait_until(lambda: gate.begun == 1)
    engine, run = active._engine, active._run
    assert not active.shutdown()
    assert active.state == FINALIZED
    assert not engine.closed
    assert not active.shutdown()  # it is still in the engine
    gate.open()
    wait_until(lambda: not run.thread.works)
    assert not published.of("depth_affine")
    assert active.shutdown()  # a second one has nothing to do


def test_shutdown_in_every_state(plain):
    for steps in ((), ("configure",), ("configure", "activate")):
        made = DepthLogic(TOPIC, lambda each: None)
        for step in steps:
            getattr(made, step)(*([{"bundle": str(plain)}] if step == "configure" else []))
        before = threading.active_count()
        assert made.shutdown()
        assert made.state == FINALIZED
        assert threading.active_count() <= before
        made.on_picture(picture(0))
        with pytest.raises(StateError):
            made.activate()


def test_a_frame_that_was_left_behind_does_not_disturb_the_next_activation(
    active, published, gate, monkeypatch
):
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    active.on_picture(picture(0))
    wait_until(lambda: gate.begun == 1)
    assert not active.deactivate()
    active.activate()
    active.on_picture(picture(1))
    time.sleep(0.2)
    assert gate.begun == 1  # the engine takes one at a time, and the new run waits for it
    assert not active._run.failure
    gate.open()
    wait_until(lambda: published.indices() == [1])
    monkeypatch.undo()
    assert active.deactivate()
    assert active.cleanup()


# ------------------------------------------------------------------------------------------- reconfiguration


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
    blind = camera_info(camera=CameraInfo(*HW, (0.0,) * 9, (0.0,) * 12))
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


# ------------------------------------------------------------------------------------------- diagnostics


def test_diagnostics_in_every_state(node, plain, published):
    assert node.diagnose().message == UNCONFIGURED
    node.configure({"bundle": str(plain)})
    told = node.diagnose()
    assert (told.level, told.message) == ("OK", INACTIVE)
    assert dict(told.values)["engine"].startswith("onnxruntime")
    assert dict(told.values)["note"] == "untrained weights"
    node.activate()
    for index in range(5):
        node.on_picture(picture(index))
        wait_until(lambda index=index: published.indices()[-1:] == [index])
    wait_until(lambda: values(node)["published"] == "5")
    told = node.diagnose()
    assert (told.level, told.message) == ("OK", "pictures become results")
    named = dict(told.values)
    assert set(named) >= {"fps", "latency p50 (ms)", "latency p99 (ms)", "dropped", "damaged"}
    assert named["state"] == ACTIVE
    assert float(named["age by the stamp p50 (ms)"]) == pytest.approx(998 * 33.333333, rel=0.01)


def test_silence_and_what_caused_it(active, monkeypatch):
    monkeypatch.setattr(module, "SILENCE_S", 0.0)
    assert active.diagnose().message == "no result for 0 s"
    active.on_picture(damaged(0))
    wait_until(lambda: values(active)["damaged"] == "1")
    told = active.diagnose()
    assert told.level == "WARN"
    assert told.message.startswith(
        "pictures come and cannot be used: a picture of encoding 'kodachrome'"
    )


def test_an_engine_that_fails_is_an_error_that_is_said(active, monkeypatch):
    def broken(engine, slot):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(e2e.Engine, "collect", broken)
    active.on_picture(picture(0))
    wait_until(lambda: active.diagnose().level == "ERROR")
    assert active.diagnose().message == "RuntimeError: the device is gone"
    monkeypatch.undo()
    assert active.deactivate()


def test_parity_is_among_them(node, plain, published, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    node.configure({"bundle": str(plain)})
    node.activate()
    node.reconfigure({"parity_every": 1})
    node.on_picture(picture(0))
    wait_until(lambda: published.indices() == [0])
    assert values(node)["parity"].startswith("parity AbsRel")


def test_several_results_have_a_topic_each(node, geometry, published):
    topics = {name for name, _, _ in node.configure({"bundle": str(geometry)})}
    node.activate()
    node.on_camera_info(camera_info())
    node.on_picture(picture(9))
    wait_until(lambda: published.of("camera_info"))
    assert {each.topic for each in published} == topics
    assert {name.rpartition("/")[2] for name in topics} >= {"depth_affine", "normals"}
