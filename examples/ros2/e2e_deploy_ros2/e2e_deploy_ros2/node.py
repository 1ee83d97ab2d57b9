"""The node of ROS: a managed (lifecycle) one around ``DepthLogic``, which knows all but the middleware.

For ROS 2 Jazzy and later.
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.runtime.ros import messages
from e2e_deploy.runtime.ros.topics import camera_topic
from e2e_deploy_ros2.conversion import from_ros, ros_class, to_ros
from e2e_deploy_ros2.logic import DepthLogic
from e2e_deploy_ros2.parameters import PARAMETERS, Parameter

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
RELIABILITY = {"best_effort": ReliabilityPolicy.BEST_EFFORT, "reliable": ReliabilityPolicy.RELIABLE}


def descriptor(parameter: Parameter) -> ParameterDescriptor:
    """What tools show of a parameter, and the range that rclpy holds it to."""
    found = ParameterDescriptor(description=parameter.description)
    when = "at any time" if parameter.live else "while the node is unconfigured"
    among = f"one of {', '.join(parameter.choices)}; " if parameter.choices else ""
    found.additional_constraints = f"{among}may change {when}"
    if parameter.span:
        low, high = parameter.span
        if isinstance(parameter.default, int):
            found.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=0)]
        else:
            found.floating_point_range = [
                FloatingPointRange(from_value=low, to_value=high, step=0.0)
            ]
    return found


Transition = Callable[["DepthNode", LifecycleState], TransitionCallbackReturn]


def said(transition: Transition) -> Transition:
    """A transition that logs what it raises: rclpy makes ERROR of it, in Jazzy without a word."""

    @wraps(transition)
    def with_a_word(node: "DepthNode", state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception as error:
            node.get_logger().error(f"{transition.__name__}: {type(error).__name__}: {error}")
            raise

    return with_a_word


class DepthNode(LifecycleNode):
    """Subscribes to ``image`` and the ``camera_info`` beside it; remap ``image`` to a camera's topic."""

    def __init__(self) -> None:
        super().__init__("e2e_deploy")
        for parameter in PARAMETERS.values():
            self.declare_parameter(parameter.name, parameter.default, descriptor(parameter))
        self._topic = self.resolve_topic_name("image")
        self._outputs: dict[str, Any] = {}
        self._inputs: list[Any] = []
        self._diagnostics: Any = None
        self._timer: Any = None
        self.logic = self._new_logic()
        self.add_on_set_parameters_callback(self._may_change)
        self.add_post_set_parameters_callback(self._changed)

    def _new_logic(self) -> DepthLogic:
        clock = self.get_clock()
        return DepthLogic(self._topic, self._publish, lambda: clock.now().nanoseconds)

    # ------------------------------------------------------------------------------------------- transitions

    @said
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the bundle and make the publishers."""
        values = {name: self.get_parameter(name).value for name in PARAMETERS}
        try:
            topics = self.logic.configure(values)
        except E2EDeployError as error:
            self.get_logger().error(str(error))
            return FAILURE
        for name, kind, latched in topics:
            self._outputs[name] = self.create_lifecycle_publisher(
                ros_class(kind.type_name), name, self._qos("output_reliability", latched=latched)
            )
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        period_s = self.logic.parameters["diagnostics_period_s"]
        self._timer = self.create_timer(period_s, self._diagnose)
        self.get_logger().info(dict(self.logic.diagnose().values)["engine"])
        return super().on_configure(state)

    @said
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe, and take pictures."""
        done = super().on_activate(state)  # the publishers first: a result may come at once
        self.logic.activate()
        qos = self._qos("input_reliability")
        if self.logic.parameters["image_transport"] == "compressed":
            topic, kind, ours = (
                f"{self._topic}/compressed",
                CompressedImage,
                messages.CompressedImage,
            )
        else:
            topic, kind, ours = self._topic, Image, messages.Image
        self._inputs = [
            self.create_subscription(
                CameraInfo,
                camera_topic(self._topic),
                lambda message: self.logic.on_camera_info(from_ros(messages.CameraInfo, message)),
                qos,
            ),
            self.create_subscription(
                kind, topic, lambda message: self.logic.on_picture(from_ros(ours, message)), qos
            ),
        ]
        return done

    @said
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe; the frame in the engine is still published, if it ends soon."""
        self._unsubscribe()
        if not self.logic.deactivate():
            self.get_logger().warning("the engine still computes a frame; its result is dropped")
        return super().on_deactivate(state)

    @said
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Close the engine."""
        if not self.logic.cleanup():
            self.get_logger().warning("the engine still computes a frame and is left to end")
        self._forget()
        return super().on_cleanup(state)

    @said
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End, whatever the state."""
        self.end()
        return super().on_shutdown(state)

    @said
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Whatever went wrong in a transition: begin anew, unconfigured."""
        self.end()
        self.logic = self._new_logic()
        return super().on_error(state)

    def end(self) -> bool:
        """Stop and close; False if a frame is still in the engine."""
        self._unsubscribe()
        ended = self.logic.shutdown()
        self._forget()
        return ended

    # ------------------------------------------------------------------------------------------- messages

    def _qos(self, reliability: str, *, latched: bool = False) -> QoSProfile:
        if latched:
            return QoSProfile(
                depth=1,
                reliability=ReliabilityPolicy.RELIABLE,
                durability=DurabilityPolicy.TRANSIENT_LOCAL,
            )
        wanted = self.logic.parameters
        return QoSProfile(
            depth=wanted["qos_depth"],
            reliability=RELIABILITY[wanted[reliability]],
            durability=DurabilityPolicy.VOLATILE,
        )

    def _publish(self, published: Any) -> None:
        """Called in the thread of the run; publishers may be used there."""
        if (publisher := self._outputs.get(published.topic)) is not None:
            publisher.publish(to_ros(published.message))

    def _diagnose(self) -> None:
        found = self.logic.diagnose()
        values = [KeyValue(key=key, value=value) for key, value in found.values]
        status = DiagnosticStatus(
            level=getattr(DiagnosticStatus, found.level),
            name=f"{self.get_name()}: results",
            message=found.message,
            hardware_id=dict(found.values).get("engine", ""),
            values=values,
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)

    def _unsubscribe(self) -> None:
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs = []

    def _forget(self) -> None:
        for publisher in self._outputs.values():
            self.destroy_lifecycle_publisher(publisher)
        self._outputs = {}
        if self._timer is not None:
            self.destroy_timer(self._timer)
            self.destroy_publisher(self._diagnostics)
            self._timer = self._diagnostics = None

    # ------------------------------------------------------------------------------------------- parameters

    def _may_change(self, parameters: list[Any]) -> SetParametersResult:
        why = self.logic.refusal({each.name: each.value for each in parameters})
        return SetParametersResult(successful=not why, reason=why)

    def _changed(self, parameters: list[Any]) -> None:
        self.logic.reconfigure({each.name: each.value for each in parameters})


def main() -> None:
    """``ros2 run e2e_deploy_ros2 depth``."""
    rclpy.init()
    try:
        node = DepthNode()
    except ParameterException as error:  # one given at the start that cannot be
        sys.exit(f"e2e_deploy: {error}")
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)
    ended = node.end()
    node.destroy_node()
    if rclpy.ok():
        rclpy.shutdown()
    if not ended:  # no library survives the end of the interpreter while it computes
        sys.stdout.flush()
        os._exit(1)
