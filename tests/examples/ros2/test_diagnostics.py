"""What the node says of itself."""

import pytest
from e2e_deploy_ros2 import logic as module
from e2e_deploy_ros2.logic import ACTIVE, INACTIVE, UNCONFIGURED

import e2e_deploy as e2e
from tests.examples.ros2.pictures import (
    camera_info,
    damaged,
    picture,
    values,
    wait_until,
)


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
