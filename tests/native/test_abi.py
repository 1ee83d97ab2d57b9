"""The promise of the ABI: programs built with another header than the library, and a library that stays."""

import ctypes
import subprocess
import sys
from ctypes import byref, c_char_p, c_int, c_void_p, sizeof

import numpy as np
import pytest

from tests.native.build import ROOT
from tests.native.library import Frame, Info, Options, Output, Result
from tests.plain_bundle import HW, write_plain_bundle


class NewerOptions(Options):
    _fields_ = (("added", c_char_p),)


class NewerInfo(Info):
    _fields_ = (("added", c_int),)


class NewerFrame(Frame):
    _fields_ = (("added", c_void_p),)


class NewerResult(Result):
    _fields_ = (("added", c_void_p),)


@pytest.fixture
def bundle(native, tmp_path):
    with native.bundle(write_plain_bundle(tmp_path / "bundle")) as bundle:
        yield bundle.handle


@pytest.fixture
def newer(native, native_onnxruntime, bundle):
    """An engine that was opened with options of a newer header, which sets none of what was added."""
    engine, options = c_void_p(), NewerOptions(onnxruntime=str(native_onnxruntime).encode())
    native.check(native.c.e2e_engine_open(bundle, byref(options), byref(engine)))
    yield engine
    native.c.e2e_engine_close(engine)


def test_a_newer_program_goes_on_with_what_both_know(native, newer):
    info = NewerInfo(added=7)
    native.check(native.c.e2e_engine_about(newer, byref(info)))
    assert (info.height, info.width, info.added) == (*HW, 7)
    assert info.struct_size == sizeof(NewerInfo)
    pixels, depth = np.full((*HW, 3), 51, np.uint8), np.zeros(HW, np.float32)
    frames = (NewerFrame * 1)(NewerFrame(rgb=pixels.ctypes.data, height=HW[0], width=HW[1]))
    results = (NewerResult * 1)(NewerResult(values=depth.ctypes.data, count=depth.size))
    run = ctypes.cast(native.c.e2e_engine_run, ctypes.c_void_p).value
    run = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, ctypes.c_size_t, c_void_p, ctypes.c_size_t)(
        run
    )
    native.check(run(newer, ctypes.addressof(frames), 1, ctypes.addressof(results), 1))
    np.testing.assert_allclose(depth, 0.2, rtol=1e-6)


def test_what_only_a_newer_library_knows_is_refused(native, bundle):
    options, engine = NewerOptions(added=b"something"), c_void_p(5)
    assert native.c.e2e_engine_open(bundle, byref(options), byref(engine)) == 2
    assert b"it is older than the header" in native.c.e2e_last_error()
    assert engine.value == 5


@pytest.mark.parametrize("size", [0, 8, sizeof(Options) - 1, sizeof(Options) + 4, 4104, 2**64 - 8])
def test_a_struct_without_its_size_is_refused(native, bundle, size):
    options, engine = Options(), c_void_p()
    options.struct_size = size
    assert native.c.e2e_engine_open(bundle, byref(options), byref(engine)) == 2
    said = native.c.e2e_last_error().decode()
    assert said.startswith(
        f"e2e_engine_options.struct_size is {size}; set it to sizeof(e2e_engine_options)"
    )


@pytest.mark.parametrize("index", [-1, 1])
def test_an_output_that_is_not_there_leaves_the_struct_as_it_was(native, newer, index):
    output = Output(channels=9)
    assert native.c.e2e_engine_output(newer, index, byref(output)) == 2
    assert output.channels == 9


def test_the_library_stays_when_it_is_closed(native):
    """A program that loads plugins may unload the one that brought the library, while threads of it are at work."""
    script = """
import _ctypes, sys
from tests.native.library import Library, NativeError
native = Library(sys.argv[1])
for _ in range(3):
    _ctypes.dlclose(native.c._handle)
try:
    native.bundle("/no/such/bundle")
except NativeError as error:
    print(error.code, Library(sys.argv[1]).c.e2e_last_code())
"""
    done = subprocess.run(
        [sys.executable, "-c", script, native.path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "5 5\n", "")
