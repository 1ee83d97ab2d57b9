"""Fixtures that several parts share: small checkpoints, exported bundles, hardware gates."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before any hub library is imported: no test needs a network
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # many tests import onnxruntime themselves

import functools
import importlib.util
import platform
import shutil
import subprocess
import sys
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

import hypothesis
import numpy as np
import pytest

import e2e_deploy.system.opencv  # noqa: F401 - before anything else imports cv2: it sets how much OpenCV prints
from e2e_deploy.nvidia.hardware import cuda_device_count
from tests.small_checkpoint import write_small

FRAME_HW = (96, 128)

# The checkout may be somebody else's, and a machine at work misses any deadline.
hypothesis.settings.register_profile("anywhere", database=None, deadline=None)
hypothesis.settings.load_profile("anywhere")

# A busy machine is no fault of the code; a profile named on the command line is loaded after this one.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


def _no_gpu():
    return None if cuda_device_count() else "no CUDA device visible"


def _no_package(name, needs_gpu):
    if needs_gpu and _no_gpu():
        return _no_gpu()
    return None if importlib.util.find_spec(name) else f"the package {name} is not installed"


# marker: says why tests that carry it cannot run here, or None
GATES = {
    "gpu": _no_gpu,
    "trt": functools.partial(_no_package, "tensorrt", True),
    "rtx": functools.partial(_no_package, "tensorrt_rtx", False),
}


def pytest_runtest_setup(item):
    for marker, reason_of in GATES.items():
        if item.get_closest_marker(marker) and (reason := reason_of()):
            if os.environ.get("REQUIRE_GPU") == "1":
                pytest.fail(f"REQUIRE_GPU=1, but {reason}", pytrace=False)
            pytest.skip(reason)


def pytest_report_header():
    found = [f"python {platform.python_version()}"]
    for name in ("torch", "diffusers", "transformers", "onnx", "onnxruntime-gpu", "onnxruntime"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join([*found, f"{cuda_device_count()} CUDA devices"])


@pytest.fixture(autouse=True, scope="session")
def _graphs_that_openvino_compiled(tmp_path_factory):
    """They are not kept in the user's own cache; a test that names another one has that."""
    from e2e_deploy.runtime.backends.openvino import cache

    users, at_first = cache.default_folder, os.environ.get("XDG_CACHE_HOME")
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            cache,
            "default_folder",
            lambda: folder if os.environ.get("XDG_CACHE_HOME") == at_first else users(),
        )
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def tiny_depth(tmp_path_factory):
    """e2e-tiny for depth: a diffusers folder."""
    from e2e_deploy.model.tiny import build_tiny

    return build_tiny(tmp_path_factory.mktemp("tiny") / "depth", "depth")


@pytest.fixture(scope="session")
def tiny_normals(tmp_path_factory):
    """e2e-tiny for normals: a diffusers folder."""
    from e2e_deploy.model.tiny import build_tiny

    return build_tiny(tmp_path_factory.mktemp("tiny") / "normals", "normals")


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A Marigold depth folder of 60 thousand parameters."""
    return write_small(tmp_path_factory.mktemp("small") / "depth")


@pytest.fixture(scope="session")
def small_normals(tmp_path_factory):
    """A Marigold normals folder of 60 thousand parameters, whose last DDIM step is x0 itself."""
    return write_small(
        tmp_path_factory.mktemp("small") / "normals",
        "normals",
        scheduler={"set_alpha_to_one": True},
    )


@pytest.fixture
def small_copy(small, tmp_path):
    """A copy of ``small`` to damage."""
    return shutil.copytree(small, tmp_path / "checkpoint")


def _export(checkpoint, out, resolution):
    from e2e_deploy.export.exporter import export_bundle
    from e2e_deploy.model.checkpoint import open_checkpoint

    return export_bundle(
        open_checkpoint(checkpoint), out, frame_sizes=[FRAME_HW], resolution=resolution
    ).root


@pytest.fixture(scope="session")
def depth_bundle(tiny_depth, tmp_path_factory):
    """e2e-tiny depth as a bundle for 96x128 frames, processed at their own size; read only."""
    return _export(tiny_depth, tmp_path_factory.mktemp("bundles") / "depth", 128)


@pytest.fixture(scope="session")
def normals_bundle(small_normals, tmp_path_factory):
    """The small normals checkpoint as a bundle for 96x128 frames, processed at 48x64; read only."""
    return _export(small_normals, tmp_path_factory.mktemp("bundles") / "normals", 64)


@pytest.fixture(scope="module")
def trace_once():
    """A module is traced once in a test file; the seconds it takes are not what those tests are about."""
    import onnx
    import onnx_ir as ir

    from e2e_deploy.export.onnx import trace

    real, traces = trace.trace, {}

    def known(module, example, **names):
        weights = sum(float(t.double().sum()) for t in module.state_dict().values())
        key = (example.shape, example.dtype, weights, str(names))
        if key not in traces:
            traces[key] = ir.to_proto(real(module, example, **names)).SerializeToString()
        return ir.from_proto(onnx.load_from_string(traces[key]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "trace", known)
        yield


@pytest.fixture
def bundle_copy(depth_bundle, tmp_path):
    """A copy of ``depth_bundle`` to damage."""
    return shutil.copytree(depth_bundle, tmp_path / "bundle")


@pytest.fixture
def photo():
    """A real picture, uint8 RGB [96, 128, 3]."""
    from e2e_deploy.assets.pictures import reference_frames

    return reference_frames(FRAME_HW, 1)[0]


@pytest.fixture
def full_disk():
    """full_disk(n): within the block no file can grow beyond n bytes; writing fails with an OSError."""
    resource = pytest.importorskip("resource", reason="the simulation needs a POSIX machine")

    @contextmanager
    def limited(size):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture
def cli(capfd):
    """Runs the command line in this process: cli("verify", path) -> (exit code, stdout, stderr)."""
    from e2e_deploy.cli import main

    def run(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return stop.value.code or 0, out, err

    return run


@pytest.fixture
def child_runs(monkeypatch):
    """child_runs(script): from then on this code is what every e2e_deploy.system.child.Child is, with its arguments."""
    from e2e_deploy.system import child

    start = subprocess.Popen

    def runs(script):
        monkeypatch.setattr(
            child.subprocess,
            "Popen",
            lambda command, **rest: start([sys.executable, "-c", script, *command[4:]], **rest),
        )

    return runs
