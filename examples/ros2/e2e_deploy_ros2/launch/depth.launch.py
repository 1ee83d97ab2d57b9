"""The node, configured and activated: ``ros2 launch e2e_deploy_ros2 depth.launch.py image:=/camera/image_raw``."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, LifecycleTransition
from launch_ros.substitutions import FindPackageShare
from lifecycle_msgs.msg import Transition


def generate_launch_description():
    """What ros2 launch asks for."""
    share = FindPackageShare("e2e_deploy_ros2")
    arguments = [
        DeclareLaunchArgument("image", default_value="/camera/image_raw", description="its topic"),
        DeclareLaunchArgument("name", default_value="e2e_deploy", description="of the node"),
        DeclareLaunchArgument("namespace", default_value="", description="of the node"),
        DeclareLaunchArgument(
            "params_file",
            default_value=PathJoinSubstitution([share, "config", "depth.yaml"]),
            description="parameters of the node",
        ),
    ]
    name, namespace = LaunchConfiguration("name"), LaunchConfiguration("namespace")
    node = LifecycleNode(
        package="e2e_deploy_ros2",
        executable="depth",
        name=name,
        namespace=namespace,
        output="screen",
        parameters=[LaunchConfiguration("params_file")],
        remappings=[("image", LaunchConfiguration("image"))],
    )
    begin = LifecycleTransition(
        lifecycle_node_names=[[namespace, "/", name]],
        transition_ids=[Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE],
    )
    return LaunchDescription([*arguments, node, begin])
