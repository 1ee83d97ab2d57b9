"""ROS 2 without ROS: its messages, their bytes, their pictures, and which topics results become."""
