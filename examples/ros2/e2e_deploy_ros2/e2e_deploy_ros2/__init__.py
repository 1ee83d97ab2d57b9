"""A camera's pictures to depth and normals in ROS 2. All but ``node.py`` works, and is tested, without ROS."""
