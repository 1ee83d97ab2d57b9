"""Fixtures of the plan builder's tests."""

import pytest

from e2e_deploy.export.engines.cache import PlanCache
from e2e_deploy.nvidia.trt_api import find_api


@pytest.fixture
def rtx():
    """TensorRT-RTX, which needs no GPU to build."""
    return find_api("tensorrt-rtx")


@pytest.fixture
def cache(tmp_path):
    """A plan cache of the test's own."""
    return PlanCache(tmp_path / "cache")
