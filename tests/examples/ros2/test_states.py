"""The node's states: what each does and refuses, also in the middle of a frame."""

import threading
import time

import pytest
from e2e_deploy_ros2 import logic as module
from e2e_deploy_ros2.logic import FINALIZED, INACTIVE, UNCONFIGURED, DepthLogic, StateError

import e2e_deploy as e2e
from tests.examples.ros2.pictures import (
    TOPIC,
    picture,
    wait_until,
)
from tests.plain_bundle import write_plain_bundle


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
