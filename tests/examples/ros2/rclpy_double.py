"""What the node calls of rclpy and of launch, without ROS: the same names and arguments, and what must hold of them.

Signatures, the order of callbacks and what a transition does with its callback's answer are those of rclpy's branches
jazzy and rolling (rclpy/node.py, rclpy/lifecycle/node.py, rclpy/qos.py).
"""

import re
import sys
from collections import namedtuple
from enum import Enum, IntEnum
from types import ModuleType

from tests.examples.ros2.ros_messages import message_classes

LifecycleState = namedtuple("LifecycleState", ["label", "state_id"])
TransitionCallbackReturn = Enum("TransitionCallbackReturn", ["SUCCESS", "FAILURE", "ERROR"])
ReliabilityPolicy = IntEnum("ReliabilityPolicy", {"RELIABLE": 1, "BEST_EFFORT": 2})
DurabilityPolicy = IntEnum("DurabilityPolicy", {"TRANSIENT_LOCAL": 1, "VOLATILE": 2})


class ExternalShutdownException(Exception):  # noqa: N818 - its name there
    """As rclpy.executors has it."""


class ParameterException(Exception):  # noqa: N818 - its name there
    """As rclpy.exceptions has it: of a value that cannot be declared, among others."""


class RCLError(RuntimeError):
    """As rclpy has it: of calls that the middleware refuses, such as after a shutdown."""


class QoSProfile:
    """Without a history a depth is needed; what is not said is reliable and volatile."""

    def __init__(self, history=None, depth=None, reliability=None, durability=None):
        assert history is not None or isinstance(depth, int)
        self.depth = depth
        self.reliability = ReliabilityPolicy(reliability or ReliabilityPolicy.RELIABLE)
        self.durability = DurabilityPolicy(durability or DurabilityPolicy.VOLATILE)

    def reaches(self, subscriber):
        """A publisher offers at least what a subscriber asks for, or they do not meet."""
        return (
            self.reliability <= subscriber.reliability and self.durability <= subscriber.durability
        )


class Bus:
    """The middleware: who listens to which topic, and what was said last on those that are latched.

    Attributes:
        remaps: topics by other names.
        overrides: parameters given at the start.
        logged: (level, text) of every node.
        on_spin: what happens while a node spins.
    """

    def __init__(self):
        self.classes = message_classes()
        self.subscriptions, self.latched = [], {}
        self.publishers = []
        self.remaps, self.overrides, self.logged = {}, {}, []
        self.now_ns = 1_700_000_100_000_000_000
        self.ok = False
        self.on_spin = lambda node: None

    def listen(self, topic, callback, **qos):
        """Subscribe from outside, perhaps late."""
        profile = QoSProfile(depth=10, **qos)
        self.subscriptions.append((topic, None, callback, profile))
        if profile.durability == DurabilityPolicy.TRANSIENT_LOCAL and topic in self.latched:
            callback(self.latched[topic])

    def send(self, topic, message, **qos):
        """Publish; to whom it goes decide the profiles."""
        profile = qos.get("profile") or QoSProfile(depth=10, **qos)
        if profile.durability == DurabilityPolicy.TRANSIENT_LOCAL:
            self.latched[topic] = message
        heard = 0
        for other, kind, callback, wanted in list(self.subscriptions):
            if other == topic and profile.reaches(wanted):
                assert kind is None or type(message) is kind
                callback(message)
                heard += 1
        return heard


class Publisher:
    """Refuses what is no message of its type, and everything once it is destroyed."""

    def __init__(self, bus, msg_type, topic, qos):
        self.bus, self.msg_type, self.topic_name, self.qos = bus, msg_type, topic, qos
        self.is_destroyed = False
        bus.publishers.append(self)

    def publish(self, msg):
        assert not self.is_destroyed
        if not self.bus.ok:
            raise RCLError("Failed to publish: publisher's context is invalid")
        if not isinstance(msg, self.msg_type):
            raise TypeError(f"Expected {self.msg_type}, got {type(msg)}")
        self.bus.send(self.topic_name, msg, profile=self.qos)

    def on_activate(self, state):
        return TransitionCallbackReturn.SUCCESS

    on_deactivate = on_configure = on_cleanup = on_shutdown = on_error = on_activate


class LifecyclePublisher(Publisher):
    """Says nothing while it is not activated."""

    is_activated = False

    def publish(self, msg):
        if self.is_activated:
            super().publish(msg)

    def on_activate(self, state):
        self.is_activated = True
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state):
        self.is_activated = False
        return TransitionCallbackReturn.SUCCESS


class Parameter:
    """name, value, type_."""

    Type = IntEnum("Type", {"NOT_SET": 0, "BOOL": 1, "INTEGER": 2, "DOUBLE": 3, "STRING": 4})

    def __init__(self, name, type_=None, value=None):
        self.name, self.value = name, value
        kinds = {bool: 1, int: 2, float: 3, str: 4}
        self.type_ = type_ or Parameter.Type(kinds[type(value)])


class Clock:
    """Stands still."""

    def __init__(self, bus):
        self._bus = bus

    def now(self):
        bus = self._bus

        class Now:
            nanoseconds = bus.now_ns

            def to_msg(self):
                return bus.classes["builtin_interfaces/msg/Time"](
                    sec=bus.now_ns // 10**9, nanosec=bus.now_ns % 10**9
                )

        return Now()


class Logger:
    """info, warning, error: one text each."""

    def __init__(self, bus):
        for level in ("info", "warning", "error"):
            setattr(self, level, lambda message, level=level: bus.logged.append((level, message)))


TRANSITIONS = {
    "configure": ("unconfigured", "inactive"),
    "activate": ("inactive", "active"),
    "deactivate": ("active", "inactive"),
    "cleanup": ("inactive", "unconfigured"),
}


def lifecycle_node(bus):
    """The class LifecycleNode on a bus."""
    result = bus.classes["rcl_interfaces/msg/SetParametersResult"]
    kinds = set(bus.classes.values())

    def profile_of(qos_profile):
        if isinstance(qos_profile, int):
            return QoSProfile(depth=qos_profile)
        if not isinstance(qos_profile, QoSProfile):
            raise TypeError(f"Expected QoSProfile or int, but received {type(qos_profile)}")
        return qos_profile

    class LifecycleNode:
        def __init__(self, node_name, *, enable_communication_interface=True):
            assert bus.ok, "rclpy.init() has not been called"
            assert re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", node_name)
            self._name, self.state = node_name, "unconfigured"
            self._parameters, self._descriptors = {}, {}
            self._may, self._post = [], []
            self._entities, self._timers = [], []

        # -- names, time, log
        def get_name(self):
            return self._name

        def get_clock(self):
            return Clock(bus)

        def get_logger(self):
            return Logger(bus)

        def resolve_topic_name(self, topic, *, only_expand=False):
            full = topic if topic.startswith("/") else f"/{topic}"
            assert re.fullmatch("(/[A-Za-z_][A-Za-z0-9_]*)+", full), f"Invalid topic name: {topic}"
            return full if only_expand else bus.remaps.get(full, full)

        # -- parameters
        def declare_parameter(self, name, value=None, descriptor=None, ignore_override=False):
            assert name not in self._parameters
            assert type(descriptor) is bus.classes["rcl_interfaces/msg/ParameterDescriptor"]
            descriptor.type = int(Parameter(name, value=value).type_)
            self._descriptors[name] = descriptor
            given = bus.overrides.get(name, value)
            done = self._set([Parameter(name, value=given)])
            if not done.successful:
                raise ParameterException(f"{done.reason}: {name}")
            return self._parameters[name]

        def get_parameter(self, name):
            return self._parameters[name]

        def set_parameters(self, parameter_list):
            return [self._set([each]) for each in parameter_list]

        def set_parameters_atomically(self, parameter_list):
            return self._set(parameter_list)

        def _set(self, parameters):
            for each in parameters:
                descriptor = self._descriptors.get(each.name)
                if descriptor is not None and int(each.type_) != descriptor.type:
                    return result(successful=False, reason="Wrong parameter type")
                if descriptor is None:
                    continue
                for span in (*descriptor.integer_range, *descriptor.floating_point_range):
                    if not span.from_value <= each.value <= span.to_value:
                        return result(
                            successful=False, reason=f"Parameter {each.name} out of range"
                        )
            for callback in self._may:
                done = callback(parameters)
                assert type(done) is result
                if not done.successful:
                    return done
            self._parameters |= {each.name: each for each in parameters}
            for callback in self._post:
                assert callback(parameters) is None
            return result(successful=True)

        def add_on_set_parameters_callback(self, callback):
            self._may.insert(0, callback)

        def add_post_set_parameters_callback(self, callback):
            self._post.insert(0, callback)

        # -- entities
        def create_publisher(
            self,
            msg_type,
            topic,
            qos_profile,
            *,
            callback_group=None,
            event_callbacks=None,
            qos_overriding_options=None,
            publisher_class=Publisher,
        ):
            assert msg_type in kinds
            name = self.resolve_topic_name(topic)
            made = publisher_class(bus, msg_type, name, profile_of(qos_profile))
            self._entities.append(made)
            return made

        def create_lifecycle_publisher(self, msg_type, topic, qos_profile, *, publisher_class=None):
            assert publisher_class is None
            return self.create_publisher(
                msg_type, topic, qos_profile, publisher_class=LifecyclePublisher
            )

        def create_subscription(
            self,
            msg_type,
            topic,
            callback,
            qos_profile,
            *,
            callback_group=None,
            event_callbacks=None,
            qos_overriding_options=None,
            raw=False,
        ):
            assert msg_type in kinds
            made = (self.resolve_topic_name(topic), msg_type, callback, profile_of(qos_profile))
            bus.subscriptions.append(made)
            return made

        def create_timer(
            self, timer_period_sec, callback, callback_group=None, clock=None, autostart=True
        ):
            made = (float(timer_period_sec), callback)
            self._timers.append(made)
            return made

        def destroy_publisher(self, publisher):
            self._entities.remove(publisher)
            bus.publishers.remove(publisher)
            publisher.is_destroyed = True
            return True

        destroy_lifecycle_publisher = destroy_publisher

        def destroy_subscription(self, subscription):
            bus.subscriptions.remove(subscription)
            return True

        def destroy_timer(self, timer):
            self._timers.remove(timer)
            return True

        def destroy_node(self):
            for publisher in list(self._entities):
                self.destroy_publisher(publisher)
            self._timers.clear()

        def tick(self):
            """Every timer once."""
            for _, callback in list(self._timers):
                callback()

        # -- states
        def _entities_do(self, name, state):
            for entity in self._entities:
                assert getattr(entity, name)(state) == TransitionCallbackReturn.SUCCESS
            return TransitionCallbackReturn.SUCCESS

        def on_configure(self, state):
            return self._entities_do("on_configure", state)

        def on_activate(self, state):
            return self._entities_do("on_activate", state)

        def on_deactivate(self, state):
            return self._entities_do("on_deactivate", state)

        def on_cleanup(self, state):
            return self._entities_do("on_cleanup", state)

        def on_shutdown(self, state):
            return self._entities_do("on_shutdown", state)

        def on_error(self, state):
            return self._entities_do("on_error", state)

        def trigger(self, transition):
            """A transition as rclpy carries it out: an exception is an ERROR, and then it is on_error's turn."""
            before = self.state
            if transition == "shutdown":
                goal = "finalized"
            else:
                start, goal = TRANSITIONS[transition]
                if self.state != start:
                    return TransitionCallbackReturn.ERROR
            answer = self._call(f"on_{transition}", before)
            if answer == TransitionCallbackReturn.SUCCESS:
                self.state = goal
            elif answer == TransitionCallbackReturn.ERROR:
                again = self._call("on_error", before)
                cleared = again == TransitionCallbackReturn.SUCCESS
                self.state = "unconfigured" if cleared else "finalized"
            return answer

        def _call(self, name, before):
            try:
                answer = getattr(self, name)(LifecycleState(label=before, state_id=0))
            except Exception as error:
                bus.logged.append(("raised", repr(error)))
                return TransitionCallbackReturn.ERROR
            assert isinstance(answer, TransitionCallbackReturn)
            return answer

    return LifecycleNode


def install(monkeypatch):
    """Put the modules where imports find them, and what imported others out of the way; the bus."""
    bus = Bus()

    def module(name, **members):
        made = ModuleType(name)
        vars(made).update(members)
        monkeypatch.setitem(sys.modules, name, made)

    def init(*, args=None, context=None, domain_id=None, signal_handler_options=None):
        assert not bus.ok, "Context.init() must only be called once"
        bus.ok = True

    def shutdown(*, context=None, uninstall_handlers=None):
        assert bus.ok, "shut down twice"
        bus.ok = False

    def spin(node, executor=None):
        bus.on_spin(node)

    module("rclpy", init=init, shutdown=shutdown, spin=spin, ok=lambda: bus.ok)
    module("rclpy.exceptions", ParameterException=ParameterException)
    module("rclpy.executors", ExternalShutdownException=ExternalShutdownException)
    module("rclpy.parameter", Parameter=Parameter)
    module(
        "rclpy.qos",
        QoSProfile=QoSProfile,
        ReliabilityPolicy=ReliabilityPolicy,
        DurabilityPolicy=DurabilityPolicy,
    )
    module(
        "rclpy.lifecycle",
        LifecycleNode=lifecycle_node(bus),
        LifecycleState=LifecycleState,
        TransitionCallbackReturn=TransitionCallbackReturn,
    )
    packages = {}
    for name, kind in bus.classes.items():
        packages.setdefault(name.split("/")[0], {})[kind.__name__] = kind
    for package, classes in packages.items():
        module(package)
        module(f"{package}.msg", **classes)
    monkeypatch.delitem(sys.modules, "e2e_deploy_ros2.node", raising=False)
    return bus
