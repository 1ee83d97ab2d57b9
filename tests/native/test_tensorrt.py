"""The TensorRT backend against doubles of the driver and of TensorRT, made from TensorRT's headers; no GPU is needed.

Only where TENSORRT_INCLUDE_DIR and CUDA_INCLUDE_DIR name those headers, which no package of Debian's has.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.native.build import FOLDER, ROOT, alone, build, run
from tests.native.fake_tensorrt import source, version
from tests.plain_bundle import rehash, write_plain_bundle
from tests.runtime.fake_plans import add_plan

HEADERS = {name: os.environ.get(name) for name in ("TENSORRT_INCLUDE_DIR", "CUDA_INCLUDE_DIR")}
pytestmark = pytest.mark.skipif(
    not all(HEADERS.values()), reason=f"{' and '.join(HEADERS)} name no headers"
)
GPU = "NVIDIA Test GPU"
FRAME, DEPTH = "input frame uint8 1 24 32 3", "output depth float32 1 24 32"

# In a process of its own, whose libcuda is the double.
USE = """
import ctypes, json, sys
import numpy as np
from tests.native.library import Library, NativeError

native, driver, trt = Library(sys.argv[1]), ctypes.CDLL("libcuda.so.1"), ctypes.CDLL(sys.argv[3])
driver.fake_cuda_current.restype = ctypes.c_void_p
frames = np.random.default_rng(0).integers(0, 256, (1, 24, 32, 3), dtype=np.uint8)
right = frames.astype(np.float32).sum(axis=-1) / np.float32(3) / np.float32(255)


def aligned(like):
    memory = np.zeros(like.nbytes + 512, np.uint8)
    start = -memory.ctypes.data % 256
    return memory[start : start + like.nbytes].view(like.dtype).reshape(like.shape)


def on_device(engine, frame, out, stream):
    return native.c.e2e_engine_run_on_device(engine.handle, frame, (ctypes.c_void_p * 1)(out), 1, stream)


told = {}
try:
    with native.engine(sys.argv[2], **json.loads(sys.argv[4])) as engine:
        told |= {name: getattr(engine.info, name).decode() for name in ("backend", "device", "reason")}
        told["same"] = bool(np.array_equal(engine(frames)["depth"], right))
        given, out = aligned(frames), aligned(right)
        given[:] = frames
        told["queued"] = on_device(engine, given.ctypes.data, out.ctypes.data, 1)
        told["same on the device"] = bool(np.array_equal(out, right))
        told["not aligned"] = on_device(engine, given.ctypes.data, out.ctypes.data + 4, 1)
        told["said"] = native.c.e2e_last_error().decode()
        told["no stream"] = on_device(engine, given.ctypes.data, out.ctypes.data, None)
        told["no stream said"] = native.c.e2e_last_error().decode()
        try:
            native.engine(sys.argv[2], tensorrt=sys.argv[1])
        except NativeError as error:
            told["another library"] = [error.code, str(error)]
        told["live"] = driver.fake_cuda_live() > 0
except NativeError as error:
    told["refused"] = [error.code, str(error)]
told["left"] = [driver.fake_cuda_live(), trt.fake_tensorrt_live(), driver.fake_cuda_current() or 0]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def doubles():
    """Folder of the doubles, and the library that was built for them."""
    include = Path(HEADERS["TENSORRT_INCLUDE_DIR"])
    built = build("tensorrt", *(f"-D{name}={folder}" for name, folder in HEADERS.items()))
    folder = FOLDER / "doubles"
    with alone("doubles"):
        folder.mkdir(exist_ok=True)
        text = source(include)
        (folder / "fake_tensorrt.cpp").write_text(text)
        run(
            *("g++", "-std=c++17", "-w", "-shared", "-fPIC", folder / "fake_tensorrt.cpp"),
            *(word for name in HEADERS.values() for word in ("-isystem", name)),
            *("-o", folder / f"libnvinfer.so.{version(include)[0]}"),
        )
        program = ROOT / "tests/native/programs/fake_cuda.c"
        run(
            "gcc",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-shared",
            "-fPIC",
            program,
            "-o",
            folder / "libcuda.so.1",
        )
    return folder, built / "libe2e_deploy.so"


@pytest.fixture
def used(doubles, tmp_path):
    """used(lines, options, **facts): what USE tells of a plan of these lines, which the manifest tells so."""
    folder, shared = doubles
    trt = f"libnvinfer.so.{version(Path(HEADERS['TENSORRT_INCLUDE_DIR']))[0]}"
    here = {"version": ".".join(version(Path(HEADERS["TENSORRT_INCLUDE_DIR"]))), "gpu": GPU}

    def use(*lines, options=None, name=None, environment=None, **facts):
        bundle = write_plain_bundle(tmp_path / "bundle")
        plan = add_plan(bundle, **(here | facts))
        digest = json.loads(plan.read_text())["name"] if name is None else name
        plan.write_text("\n".join([digest, *lines]))
        rehash(bundle, str(plan.relative_to(bundle)))
        done = subprocess.run(
            [sys.executable, "-c", USE, shared, bundle, trt, json.dumps(options or {})],
            env=os.environ
            | {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(ROOT)}
            | (environment or {}),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    return use


@pytest.mark.parametrize("options", [{}, {"backend": "tensorrt", "device": "cuda:0"}])
def test_a_plan_runs_from_the_host_and_on_the_device_and_leaves_nothing(used, options):
    told = used(FRAME, DEPTH, options=options)
    assert told["backend"] == "tensorrt"
    assert told["device"] == f"{GPU}, sm89"
    assert told["reason"] == (
        "named by you" if options else "the bundle's TensorRT plan fits this GPU"
    )
    assert (told["same"], told["queued"], told["same on the device"]) == (True, 0, True)
    assert told["not aligned"] == 2
    assert "256 does not divide" in told["said"]
    assert told["another library"][0] == 2
    assert "this process has loaded TensorRT from " in told["another library"][1]
    assert (told["live"], told["left"]) == (True, [0, 0, 0])


def test_what_tensorrt_says_is_kept(used):
    told = used(FRAME, DEPTH, environment={"NO_DEFAULT_STREAM": "1"})
    assert told["no stream"] == 1
    assert told["no stream said"].endswith("could not run the plan: no stream")


@pytest.mark.parametrize(
    ("lines", "facts", "code", "text"),
    [
        ((FRAME, DEPTH), {"name": "0" * 64}, 5, "was built from another graph"),
        ((FRAME, DEPTH.replace("32", "16")), {}, 5, "has other tensors"),
        ((FRAME, DEPTH, "output more float32 1 24 32"), {}, 5, "has other tensors"),
        ((FRAME, DEPTH.replace("float32", "uint8")), {}, 5, "has other tensors"),
        ((FRAME.replace("input", "output"), DEPTH), {}, 5, "has other tensors"),
        ((FRAME, DEPTH), {"name": "damaged"}, 4, "does not load plans/"),
        ((FRAME, DEPTH), {"version": "9.8.7"}, 4, "was built by TensorRT 9.8.7, and"),
        (
            (FRAME, DEPTH),
            {"target": "sm90"},
            4,
            f"are for sm90 {GPU}, and this GPU is sm89 ({GPU})",
        ),
        ((FRAME, DEPTH), {"gpu": "NVIDIA H200"}, 4, "are for sm89 NVIDIA H200"),
        (
            (FRAME, DEPTH),
            {"cuda": 14},
            4,
            "needs a driver for CUDA 14, and the one here supports CUDA 13.0",
        ),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_and_leaves_nothing(used, lines, facts, code, text):
    told = used(*lines, options={"backend": "tensorrt"}, **facts)
    assert told["refused"][0] == code
    assert text in told["refused"][1]
    assert "rebuild" in told["refused"][1] or "driver" in text
    assert told["left"] == [0, 0, 0]


def test_a_device_that_is_not_here_is_named(used):
    told = used(FRAME, DEPTH, options={"backend": "tensorrt", "device": "cuda:3"})
    assert told["refused"] == [
        4,
        "cuda:3 was asked for, and this machine has 1 CUDA devices, from cuda:0",
    ]


def test_a_library_of_another_major_version_is_refused(used, doubles, tmp_path):
    told = used(FRAME, DEPTH, options={"backend": "tensorrt", "tensorrt": str(doubles[1])})
    assert told["refused"][0] == 4
    assert told["refused"][1].endswith("is not TensorRT's library")
