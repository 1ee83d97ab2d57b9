"""The C library as the tests have it: built once for all of them, in build/native of the checkout."""

import fcntl
import os
import shutil
import subprocess
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "native"
FOLDER = ROOT / "build" / "native"
HEADERS = (
    os.environ.get("ONNXRUNTIME_INCLUDE_DIR"),
    ROOT / "build" / "onnxruntime",  # where .ci/run and `make native` have them
    "/usr/include/onnxruntime",
    "/usr/local/include/onnxruntime",
)


def skip(reason):
    """Skip a test, or fail it where native code must be tested."""
    if os.environ.get("REQUIRE_NATIVE") == "1":
        pytest.fail(f"REQUIRE_NATIVE=1, but {reason}", pytrace=False)
    pytest.skip(reason)


def require_tools(*names):
    for name in names:
        if shutil.which(name) is None:
            skip(f"{name} is missing: apt-get install {name}")


def onnxruntime_headers():
    for folder in filter(None, HEADERS):
        if Path(folder, "onnxruntime_c_api.h").is_file():
            return Path(folder)
    return skip("onnxruntime_c_api.h is missing: native/onnxruntime_headers.sh build/onnxruntime")


def onnxruntime_library():
    """The library in the wheel of onnxruntime, which the Python tests run too."""
    found = find_spec("onnxruntime")
    for file in sorted(Path(found.origin).parent.glob("capi/libonnxruntime.so*")) if found else ():
        return file
    return skip("the installed onnxruntime package has no libonnxruntime.so")


def run(*command, **rest):
    """Run a command; what it printed. Fails with that where the command does."""
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        **rest,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}:\n{done.stdout[-8000:]}"
    return done.stdout


@contextmanager
def alone(name):
    """A block that one process of all that test is in at a time."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build(name, *settings):
    """Configure and build into FOLDER / name, warnings being errors; quick where it was built before."""
    require_tools("cmake", "g++", "make")
    headers = onnxruntime_headers()
    if not any(
        Path(top, "nlohmann/json.hpp").is_file() for top in ("/usr/include", "/usr/local/include")
    ):
        skip("nlohmann/json.hpp is missing: apt-get install nlohmann-json3-dev")
    folder = FOLDER / name
    with alone(name):
        run(
            *("cmake", "-S", SOURCE, "-B", folder, "-DE2E_DEPLOY_WERROR=ON"),
            *(f"-DONNXRUNTIME_INCLUDE_DIR={headers}", *settings),
        )
        run("cmake", "--build", folder, "--parallel", os.cpu_count() or 1)
    return folder


def program(name, built, folder, *settings):
    """Compile one of tests/native/programs against a built library, into a folder; the program."""
    require_tools("gcc")
    out = folder / name
    run(
        *("gcc", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O1", "-g1"),
        *(*settings, "-I", SOURCE / "include", Path(__file__).parent / "programs" / f"{name}.c"),
        *("-o", out, built / "libe2e_deploy.so", f"-Wl,-rpath,{built}", "-pthread"),
    )
    return out
