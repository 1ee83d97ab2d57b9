"""The newest picture first: what the node computes, drops and counts, without ROS."""

import json
import time

import numpy as np

import e2e_deploy as e2e
from tests.examples.ros2.pictures import (
    CAMERA,
    camera_info,
    damaged,
    picture,
    record,
    replay,
    rgb_of,
    stamp_of,
    values,
    wait_until,
)
from tests.plain_bundle import HW, plain_depth
from tests.videos import real_clip


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
