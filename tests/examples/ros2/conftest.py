"""The node's package, as colcon would have it on the path, and a bundle whose result is known."""

import sys
from pathlib import Path

import pytest

from tests.examples.ros2.pictures import TOPIC, Gate, Published, stamp_of
from tests.plain_bundle import write_plain_bundle

PACKAGE = Path(__file__).parents[3] / "examples" / "ros2" / "e2e_deploy_ros2"
sys.path.insert(0, str(PACKAGE))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_plain_bundle(tmp_path_factory.mktemp("ros2") / "bundle")


@pytest.fixture(scope="module")
def geometry(tmp_path_factory):
    return write_plain_bundle(tmp_path_factory.mktemp("ros2") / "geometry", task="geometry")


@pytest.fixture
def published():
    return Published()


@pytest.fixture
def node(published):
    from e2e_deploy_ros2.logic import DepthLogic

    made = DepthLogic(TOPIC, published.append, now_ns=lambda: stamp_of(1000))
    yield made
    made.shutdown()


@pytest.fixture
def active(node, plain):
    node.configure({"bundle": str(plain), "backend": "onnxruntime", "device": "cpu"})
    node.activate()
    return node


@pytest.fixture
def gate(monkeypatch):
    made = Gate(monkeypatch)
    yield made
    made.open()
