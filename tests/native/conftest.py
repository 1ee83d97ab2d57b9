"""The C library, built and installed once; skips name what is missing, REQUIRE_NATIVE=1 makes failures of them."""

import pytest

from tests.native.build import alone, build, onnxruntime_library, run
from tests.native.library import Library


@pytest.fixture(scope="session")
def native_build():
    """Folder of the built library."""
    return build("release")


@pytest.fixture(scope="session")
def native_prefix(native_build):
    """Folder that the library is installed in, as a user has it: include, lib, its CMake package."""
    prefix = native_build / "installed"
    with alone("release"):
        run("cmake", "--install", native_build, "--prefix", prefix)
    return prefix


@pytest.fixture(scope="session")
def native_onnxruntime():
    """ONNX Runtime's library, the one of Python's package."""
    return onnxruntime_library()


@pytest.fixture(scope="session")
def native(native_prefix):
    """The installed library through ctypes; engines need ``native_onnxruntime``."""
    return Library(next(native_prefix.glob("lib*/**/libe2e_deploy.so")))
