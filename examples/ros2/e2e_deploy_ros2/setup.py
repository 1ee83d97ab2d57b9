"""For colcon: where ROS 2 finds the package, its launch file and its parameters."""

from setuptools import setup

NAME = "e2e_deploy_ros2"

setup(
    name=NAME,
    version="0.1.0",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", ["launch/depth.launch.py"]),
        (f"share/{NAME}/config", ["config/depth.yaml"]),
    ],
    install_requires=["setuptools", "e2e-deploy"],
    zip_safe=True,
    maintainer="the developers of e2e-deploy",
    maintainer_email="e2e-deploy@example.org",
    description="Depth and surface normals of a camera, by a bundle of e2e-deploy, as a managed node.",
    license="Apache-2.0",
    entry_points={"console_scripts": [f"depth = {NAME}.node:main"]},
)
