"""The shell around the logic, against a double of rclpy that checks what it is called with."""

import importlib
import json
import threading
import time

import numpy as np
import pytest
from e2e_deploy_ros2.conversion import from_ros, to_ros
from e2e_deploy_ros2.parameters import PARAMETERS

import e2e_deploy as e2e
from e2e_deploy.runtime.ros import messages
from e2e_deploy.runtime.ros.topics import image
from tests.examples.ros2 import rclpy_double
from tests.examples.ros2.pictures import (
    FIRST_NS,
    Gate,
    camera_info,
    picture,
    rgb_of,
    stamp_of,
    wait_until,
)
from tests.plain_bundle import HW, plain_depth
from tests.ros_peer import peer

SUCCESS = rclpy_double.TransitionCallbackReturn.SUCCESS
FAILURE = rclpy_double.TransitionCallbackReturn.FAILURE
ERROR = rclpy_double.TransitionCallbackReturn.ERROR
RELIABLE = rclpy_double.ReliabilityPolicy.RELIABLE
BEST_EFFORT = rclpy_double.ReliabilityPolicy.BEST_EFFORT
LATCHED = rclpy_double.DurabilityPolicy.TRANSIENT_LOCAL
DEPTH = "/front/e2e_deploy/depth_affine"


@pytest.fixture
def bus(monkeypatch, plain):
    made = rclpy_double.install(monkeypatch)
    made.remaps["/image"] = "/front/image_raw"
    made.overrides["bundle"] = str(plain)
    return made


@pytest.fixture
def make(bus):
    """make(**overrides): the node, as it is started."""
    made = []

    def node(**overrides):
        bus.overrides |= overrides
        if not bus.ok:
            importlib.import_module("rclpy").init()
        made.append(importlib.import_module("e2e_deploy_ros2.node").DepthNode())
        return made[-1]

    yield node
    for each in made:
        each.end()


def started(node):
    assert node.trigger("configure") == SUCCESS
    assert node.trigger("activate") == SUCCESS
    return node


def heard(bus, topic, reliability=BEST_EFFORT, **qos):
    found = []
    bus.listen(topic, found.append, reliability=reliability, **qos)
    return found


def set_to(node, name, value):
    return node.set_parameters([rclpy_double.Parameter(name, value=value)])[0]


def test_the_double_knows_the_messages():
    """A defect of the double would hide one of the node."""
    classes = rclpy_double.message_classes()
    image = classes["sensor_msgs/msg/Image"]()
    with pytest.raises(AttributeError, match="no field"):
        image.heigth = 3
    for name, wrong in (("height", -1), ("height", 2.0), ("encoding", b"x"), ("header", None)):
        with pytest.raises(AssertionError, match=f"the field {name} does not take"):
            setattr(image, name, wrong)
    status = classes["diagnostic_msgs/msg/DiagnosticStatus"]
    assert status.ERROR == b"\2"
    with pytest.raises(AssertionError):
        status(level=2)


@pytest.mark.parametrize(
    "message",
    [
        picture(3),
        camera_info(),
        messages.String("text"),
        messages.CompressedImage(messages.Header(), "png", np.arange(9, dtype=np.uint8)),
        messages.PointCloud2(
            *(messages.Header(), 1, 1, (messages.PointField("x", 0, 7, 1),), False, 4, 4),
            *(np.zeros(4, np.uint8), True),
        ),
    ],
    ids=lambda message: type(message).__name__,
)
def test_messages_there_and_back(bus, message):
    from e2e_deploy.runtime.ros import cdr

    ros = to_ros(message)
    assert type(ros) is bus.classes[message.type_name]
    if isinstance(message, messages.String | messages.PointCloud2):  # only written
        return
    back = from_ros(type(message), ros)
    assert cdr.serialise(back) == cdr.serialise(message)
    assert peer(cdr.serialise(back), message.type_name).header.frame_id == back.header.frame_id


def test_a_large_picture_is_copied_and_not_looked_at(bus):
    """Byte by byte it would take hundreds of times as long as a copy."""
    depth = image(messages.Header(), np.zeros((1080, 1920), np.float32), "32FC1")

    def seconds(work):
        def once():
            start = time.perf_counter()
            work()
            return time.perf_counter() - start

        return min(once() for _ in range(3))

    copied = seconds(lambda: depth.data.tobytes())
    assert seconds(lambda: to_ros(depth)) < 50 * copied
    ros = to_ros(depth)
    assert seconds(lambda: from_ros(messages.Image, ros)) < 50 * copied


def test_every_parameter_is_declared_with_what_it_may_be(make):
    node = make()
    assert set(node._parameters) == set(PARAMETERS)
    for name, parameter in PARAMETERS.items():
        told = node._descriptors[name]
        assert told.description == parameter.description
        assert ("at any time" in told.additional_constraints) == parameter.live
        spans = [*told.integer_range, *told.floating_point_range]
        assert [(each.from_value, each.to_value) for each in spans] == [parameter.span] * bool(
            parameter.span
        )
        for choice in parameter.choices:
            assert choice in told.additional_constraints


def test_a_picture_becomes_a_result(bus, make):
    started(make())
    depths, cameras = heard(bus, DEPTH), heard(bus, "/front/e2e_deploy/camera_info")
    assert bus.send("/front/camera_info", to_ros(camera_info())) == 1
    assert bus.send("/front/image_raw", to_ros(picture(77))) == 1
    wait_until(lambda: cameras)
    (depth,) = depths
    assert (depth.encoding, depth.height, depth.width, depth.is_bigendian) == ("32FC1", *HW, 0)
    assert depth.header.frame_id == "front_optical_frame"
    assert depth.header.stamp.sec * 10**9 + depth.header.stamp.nanosec == stamp_of(77)
    numbers = np.frombuffer(depth.data, "<f4").reshape(HW)
    assert np.allclose(numbers, plain_depth(rgb_of(77)), atol=1e-6)
    assert list(cameras[0].k) == list(camera_info().k)


def test_a_late_subscriber_is_told_what_the_results_are(bus, make):
    started(make())
    depths = heard(bus, DEPTH)
    bus.send("/front/image_raw", to_ros(picture(1)))
    wait_until(lambda: depths)
    (told,) = heard(bus, "/front/e2e_deploy/metadata", RELIABLE, durability=LATCHED)
    assert json.loads(told.data)["results"][0]["units"].startswith("none: scale and shift")


def test_compressed_pictures(bus, make):
    import cv2

    started(make(image_transport="compressed"))
    depths = heard(bus, DEPTH)
    _, png = cv2.imencode(".png", rgb_of(50)[..., ::-1])
    header = picture(50).header
    message = messages.CompressedImage(header, "bgr8; png compressed bgr8", png.reshape(-1))
    assert bus.send("/front/image_raw", to_ros(picture(1))) == 0
    assert bus.send("/front/image_raw/compressed", to_ros(message)) == 1
    wait_until(lambda: depths)
    assert np.frombuffer(depths[0].data, "<f4")[0] == pytest.approx(50 / 255)


def test_the_profiles_are_those_of_sensors_unless_others_are_asked_for(bus, make):
    node = started(make())
    assert heard(bus, DEPTH, RELIABLE) == []
    best, reliable = heard(bus, DEPTH), heard(bus, DEPTH, RELIABLE)
    bus.send("/front/image_raw", to_ros(picture(1)), reliability=BEST_EFFORT)
    wait_until(lambda: best)
    assert not reliable
    node.end()
    started(make(output_reliability="reliable", input_reliability="reliable", qos_depth=3))
    assert bus.send("/front/image_raw", to_ros(picture(2)), reliability=BEST_EFFORT) == 0
    assert bus.send("/front/image_raw", to_ros(picture(3)), reliability=RELIABLE) == 1
    wait_until(lambda: reliable)
    assert {
        publisher.qos.depth for publisher in bus.publishers if "depth" in publisher.topic_name
    } == {3}


def test_what_is_not_active_says_nothing_and_leaves_nothing(bus, make):
    node = make()
    assert node.trigger("activate") == ERROR
    assert node.trigger("configure") == SUCCESS
    assert bus.logged[-1][1].startswith("onnxruntime")
    assert bus.send("/front/image_raw", to_ros(picture(0))) == 0
    assert node.trigger("activate") == SUCCESS
    depths = heard(bus, DEPTH)
    bus.send("/front/image_raw", to_ros(picture(1)))
    wait_until(lambda: depths)
    assert node.trigger("deactivate") == SUCCESS
    assert bus.send("/front/image_raw", to_ros(picture(2))) == 0
    assert {each.topic_name for each in bus.publishers} >= {DEPTH, "/diagnostics"}
    assert node.trigger("cleanup") == SUCCESS
    assert bus.publishers == []
    assert node._timers == []
    assert started(node).state == "active"
    assert node.trigger("shutdown") == SUCCESS
    assert node.state == "finalized"
    assert bus.publishers == []
    assert len(depths) == 1


def test_a_bundle_that_is_not_there_leaves_it_unconfigured(bus, make):
    node = make(bundle="/nowhere")
    assert node.trigger("configure") == FAILURE
    assert node.state == "unconfigured"
    assert bus.logged[-1][0] == "error"
    assert "/nowhere" in bus.logged[-1][1]
    assert bus.publishers == []


def test_a_parameter_given_at_the_start_that_cannot_be(bus, make):
    node = make(backend="coreml")
    assert node.trigger("configure") == FAILURE
    assert bus.logged[-1] == (
        "error",
        f"backend is 'coreml'; it is one of {', '.join(PARAMETERS['backend'].choices)}",
    )
    assert set_to(node, "backend", "onnxruntime").successful
    assert started(node).state == "active"


def test_changes_at_run_time(bus, make, plain):
    node = started(make())
    refused = set_to(node, "bundle", str(plain))
    assert (refused.successful, refused.reason) == (
        False,
        "bundle cannot change while the node is configured: clean it up first",
    )
    assert not set_to(node, "camera_pitch_deg", 100.0).successful  # rclpy holds it to the range
    assert not set_to(node, "steady", "yes").successful
    run = node.logic._run
    assert set_to(node, "steady", True).successful
    assert node.logic._run is not run
    assert node.logic.parameters["steady"] is True
    assert node.get_parameter("steady").value is True
    assert set_to(node, "use_sim_time", True).successful
    refused = node.set_parameters_atomically(
        [
            rclpy_double.Parameter("steady", value=False),
            rclpy_double.Parameter("intrinsics", value="1"),
        ]
    )
    assert not refused.successful
    assert "intrinsics are fx,fy,cx,cy" in refused.reason
    assert node.logic.parameters["steady"] is True


def test_diagnostics(bus, make):
    node = started(make(diagnostics_period_s=0.5))
    assert [period for period, _ in node._timers] == [0.5]
    arrays, depths = heard(bus, "/diagnostics", RELIABLE), heard(bus, DEPTH)
    bus.send("/front/image_raw", to_ros(picture(1)))
    wait_until(lambda: depths)
    wait_until(lambda: dict(node.logic.diagnose().values)["published"] == "1")
    node.tick()
    (status,) = arrays[-1].status
    assert arrays[-1].header.stamp.sec * 10**9 == bus.now_ns
    assert (status.level, status.name) == (b"\0", "e2e_deploy: results")
    assert status.hardware_id.startswith("onnxruntime")
    told = {each.key: each.value for each in status.values}
    assert told["received"] == "1"
    age_ms = (bus.now_ns - FIRST_NS) / 1e6 - 33.333
    assert float(told["age by the stamp p50 (ms)"]) == pytest.approx(age_ms, abs=0.2)


def test_deactivation_in_the_middle_of_a_frame(bus, make, monkeypatch):
    gate = Gate(monkeypatch)
    node = started(make())
    depths = heard(bus, DEPTH)
    bus.send("/front/image_raw", to_ros(picture(4)))
    wait_until(lambda: gate.begun == 1)
    threading.Timer(0.1, gate.open).start()
    assert node.trigger("deactivate") == SUCCESS
    assert len(depths) == 1  # it was published before the publishers fell silent


def test_a_frame_that_does_not_end_is_said(bus, make, monkeypatch):
    from e2e_deploy_ros2 import logic

    monkeypatch.setattr(logic, "PATIENCE_S", 0.05)
    gate = Gate(monkeypatch)
    node = started(make())
    depths = heard(bus, DEPTH)
    bus.send("/front/image_raw", to_ros(picture(4)))
    wait_until(lambda: gate.begun == 1)
    assert node.trigger("deactivate") == SUCCESS
    assert node.trigger("cleanup") == SUCCESS
    assert [text for level, text in bus.logged if level == "warning"] == [
        "the engine still computes a frame; its result is dropped",
        "the engine still computes a frame and is left to end",
    ]
    gate.open()
    assert depths == []


def test_an_error_in_a_transition_begins_anew(bus, make, monkeypatch):
    def broken(*arguments, **named):
        raise RuntimeError("no memory")

    node = make()
    with monkeypatch.context() as patch:
        patch.setattr(e2e, "load", broken)
        assert node.trigger("configure") == ERROR
    assert ("error", "on_configure: RuntimeError: no memory") in bus.logged
    assert node.state == "unconfigured"
    assert started(node).state == "active"


@pytest.mark.parametrize(("name", "value"), [("camera_pitch_deg", 90.5), ("metric", False)])
def test_a_parameter_that_rclpy_refuses_at_the_start_ends_the_program_with_a_sentence(
    bus, name, value
):
    bus.overrides[name] = value
    with pytest.raises(SystemExit, match=f"^e2e_deploy: .*{name}"):
        importlib.import_module("e2e_deploy_ros2.node").main()


def test_a_frame_that_ends_after_the_shutdown_of_ros_is_no_defect(bus, make, monkeypatch):
    gate = Gate(monkeypatch)
    node = started(make())
    depths = heard(bus, DEPTH)
    bus.send("/front/image_raw", to_ros(picture(4)))
    wait_until(lambda: gate.begun == 1)
    bus.ok = False
    threading.Timer(0.1, gate.open).start()
    assert node.end()
    assert depths == []


@pytest.mark.parametrize("how", [KeyboardInterrupt, rclpy_double.ExternalShutdownException])
def test_the_program_ends_cleanly(bus, make, how):
    seen = []

    def spin(node):
        seen.append(started(node))
        if how is not KeyboardInterrupt:
            bus.ok = False
        raise how

    bus.on_spin = spin
    importlib.import_module("e2e_deploy_ros2.node").main()
    assert seen[0].logic.state == "finalized"
    assert (bus.ok, bus.publishers, bus.subscriptions) == (False, [], [])
