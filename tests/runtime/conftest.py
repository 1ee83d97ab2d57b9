"""Manifests of small bundles, for the sinks; a bundle with a plan of the double, for the plan backends."""

import os
import shutil
import tarfile
from pathlib import Path

import pytest

from e2e_deploy.bundle.bundle import open_bundle
from tests.plain_bundle import write_plain_bundle
from tests.runtime.fake_plans import add_plan


@pytest.fixture(scope="session")
def manifests(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return {
        "depth": open_bundle(write_plain_bundle(folder / "depth")).manifest,
        "normals": open_bundle(write_plain_bundle(folder / "normals", task="normals")).manifest,
        "trained": open_bundle(write_plain_bundle(folder / "trained", note="")).manifest,
    }


@pytest.fixture
def root(tmp_path):
    """A plain bundle."""
    return write_plain_bundle(tmp_path / "bundle")


@pytest.fixture
def engine(root):
    """A plan of the double in ``root``, for the double's GPU."""
    return add_plan(root)


@pytest.fixture(scope="session")
def lerobot_sets(tmp_path_factory):
    """The data sets that lerobot wrote, unpacked once: copy before changing."""
    folder = tmp_path_factory.mktemp("lerobot")
    with tarfile.open(Path(__file__).parents[1] / "data/lerobot.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def videos_set(lerobot_sets, tmp_path):
    """A LeRobot data set of two cameras in videos."""
    return Path(shutil.copytree(lerobot_sets / "videos_set", tmp_path / "videos_set"))


@pytest.fixture
def images_set(lerobot_sets, tmp_path):
    """A LeRobot data set of one camera, its pictures in the rows."""
    return Path(shutil.copytree(lerobot_sets / "images_set", tmp_path / "images_set"))


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """compiled(root, device) lists a real package of AOTInductor for this machine in a plain bundle; gives its path."""
    from tests.runtime.compiled import add_package

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    return lambda root, device="cpu": add_package(root, shared, device)
