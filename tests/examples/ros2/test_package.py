"""What colcon and ros2 launch read: the package's files, its launch file, its parameters."""

import ast
import runpy
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import setuptools
from e2e_deploy_ros2.parameters import PARAMETERS

from tests.examples.ros2.conftest import PACKAGE

ROS = ("rclpy", "rcl_interfaces", "lifecycle_msgs", "sensor_msgs", "std_msgs", "diagnostic_msgs")
ROS += ("launch", "launch_ros")


def imported():
    """Every top-level package that a file of the package imports."""
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from ((file, alias.name.split(".")[0]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield file, node.module.split(".")[0]


def test_the_logic_imports_no_ros():
    by_file = {}
    for file, name in imported():
        by_file.setdefault(file.name, set()).add(name)
    assert by_file.pop("node.py") & set(ROS)
    assert by_file.pop("depth.launch.py") & set(ROS)
    assert not {name for names in by_file.values() for name in names} & set(ROS)


def test_the_manifest_names_what_is_imported():
    root = ElementTree.parse(PACKAGE / "package.xml").getroot()
    assert root.get("format") == "3"
    assert root.findtext("name") == "e2e_deploy_ros2"
    assert root.findtext("license") == "Apache-2.0"
    assert root.findtext("export/build_type") == "ament_python"
    needs = {each.text for each in root.findall("exec_depend")}
    # Made by their names alone, not imported: those of messages within messages, and of String.
    inner = {"std_msgs", "builtin_interfaces"}
    assert needs == {name for _, name in imported() if name in ROS} | inner


def test_setup_installs_files_that_are_there(monkeypatch):
    given = {}
    monkeypatch.setattr(setuptools, "setup", lambda **named: given.update(named))
    runpy.run_path(str(PACKAGE / "setup.py"))
    for _, files in given["data_files"]:
        for file in files:
            assert (PACKAGE / file).is_file(), file
    (script,) = given["entry_points"]["console_scripts"]
    assert script == "depth = e2e_deploy_ros2.node:main"
    root = ElementTree.parse(PACKAGE / "package.xml").getroot()
    assert (given["name"], given["version"]) == (root.findtext("name"), root.findtext("version"))


def test_the_parameter_file_holds_every_parameter_with_its_default():
    lines = (PACKAGE / "config" / "depth.yaml").read_text().splitlines()
    assert lines[1:3] == ["/**:", "  ros__parameters:"]
    written = {"true": "True", "false": "False"}
    given = {}
    for line in lines[3:]:
        name, _, value = line.split("#")[0].strip().partition(": ")
        given[name] = ast.literal_eval(written.get(value.strip(), value.strip()))
    assert given == {name: each.default for name, each in PARAMETERS.items()}
    assert {name: type(value) for name, value in given.items()} == {
        name: type(each.default) for name, each in PARAMETERS.items()
    }


class Recorded:
    """A class of launch or launch_ros: keeps what it was given, which must be what that class takes.

    Attributes:
        takes: (how many by place, keywords it needs, keywords it takes).
    """

    takes = (1, set(), set())

    def __init__(self, *given, **named):
        places, needs, more = self.takes
        assert len(given) == places
        assert needs <= set(named) <= needs | more
        self.given, self.named = given, named


NODE = {"package", "executable", "exec_name", "parameters", "remappings", "arguments", "output"}
TAKES = {
    "DeclareLaunchArgument": (1, set(), {"default_value", "description", "choices"}),
    "LifecycleNode": (0, {"name", "namespace"}, NODE),
    "LifecycleTransition": (0, {"lifecycle_node_names", "transition_ids"}, set()),
}  # of launch and launch_ros, branch jazzy; each other takes one thing


def test_the_launch_file_configures_and_activates_the_node(monkeypatch):
    members = {
        "launch": ["LaunchDescription"],
        "launch.actions": ["DeclareLaunchArgument"],
        "launch.substitutions": ["LaunchConfiguration", "PathJoinSubstitution"],
        "launch_ros": [],
        "launch_ros.actions": ["LifecycleNode", "LifecycleTransition"],
        "launch_ros.substitutions": ["FindPackageShare"],
        "lifecycle_msgs": [],
        "lifecycle_msgs.msg": [],
    }
    for name, classes in members.items():
        module = ModuleType(name)
        for each in classes:
            takes = TAKES.get(each, Recorded.takes)
            setattr(module, each, type(each, (Recorded,), {"takes": takes}))
        monkeypatch.setitem(sys.modules, name, module)
    from tests.examples.ros2.ros_messages import message_classes

    transition = message_classes()["lifecycle_msgs/msg/Transition"]
    sys.modules["lifecycle_msgs.msg"].Transition = transition
    made = runpy.run_path(str(PACKAGE / "launch" / "depth.launch.py"))
    *arguments, node, begin = made["generate_launch_description"]().given[0]
    assert [each.given[0] for each in arguments] == ["image", "name", "namespace", "params_file"]
    assert (node.named["package"], node.named["executable"]) == ("e2e_deploy_ros2", "depth")
    assert node.named["remappings"][0][0] == "image"
    assert begin.named["transition_ids"] == [1, 3]
    (parts,) = begin.named["lifecycle_node_names"]  # of which launch_ros makes one name
    given = [node.named["namespace"], "/", node.named["name"]]
    assert [getattr(part, "given", part) for part in parts] == [
        getattr(part, "given", part) for part in given
    ]
    assert Path(PACKAGE / "resource" / "e2e_deploy_ros2").read_text() == ""
