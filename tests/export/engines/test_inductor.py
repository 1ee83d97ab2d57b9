"""How a module is fitted for AOTInductor; what compiles it is in test_inductor_packages.py."""

import shlex
import shutil
import subprocess
import sys

import pytest
import torch

from e2e_deploy.export.engines.inductor import configs_for, cpp_library, fit
from e2e_deploy.export.graph.prepare import prepare
from tests.export.random_models import random_model


def fitted(precision, *, specialised=True, device="cpu"):
    body, _ = prepare(
        random_model().float(), precision=precision, specialised=specialised, sizes_hw=[(16, 24)]
    )
    return fit(body.to(device))


@pytest.mark.parametrize("specialised", [True, False])
def test_it_is_the_same_function(specialised):
    rgb = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    body, _ = prepare(
        random_model().float(), precision="fp32", specialised=specialised, sizes_hw=[(16, 24)]
    )
    with torch.no_grad():
        before = body(rgb)
        after = fit(body)(rgb)
    assert before.std() > 0.01
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("specialised", [True, False])
def test_every_tensor_is_where_the_parameters_are(precision, specialised):
    """A constant left on the host would make a package of two devices, which crashed torch's loader."""
    held = fitted(precision, specialised=specialised, device="meta")
    left = {
        f"{name}.{key}"
        for name, module in held.named_modules()
        for key, value in {**vars(module), **module._parameters, **module._buffers}.items()
        if isinstance(value, torch.Tensor) and value.device.type != "meta"
    }
    assert left == set()


def test_no_constant_is_without_dimensions_and_weights_are_channels_last():
    held = fitted("bf16")
    assert held.model.timestep.shape == (1,)
    wide = [p for p in held.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
    assert len(wide) > 5
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in wide)
    assert not any(p.requires_grad for p in held.parameters())


REGEX = """
#include <regex>
extern "C" bool matches(const char* text) {
  return std::regex_match(text, std::regex("(cpu|cuda)(:([0-9]+))?"));
}
"""
"""What every package does first: it reads the name of its device."""


@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("g++") is None, reason="a matter of GCC on Linux"
)
def test_a_package_shares_the_cpp_library_of_torch(tmp_path):
    """Linked by a compiler that would put a copy of its own into the package, which does not work beside torch's."""
    linked = ["g++", "-shared", "-fPIC", "-static-libstdc++", "-o", "x.so", "x.cpp"]
    (tmp_path / "x.cpp").write_text(REGEX)
    if subprocess.run(linked, cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("this compiler has no static C++ library")
    libraries = cpp_library(tmp_path)
    configs = configs_for("", {}, libraries, autotune=False)
    assert configs["aot_inductor.custom_op_libs"] == libraries
    library = [part for name in libraries for part in shlex.split(f"-l{name}")]
    subprocess.run([*linked, *library], cwd=tmp_path, check=True)
    code = (
        "import ctypes, torch; f = ctypes.CDLL('./x.so').matches; f.restype = ctypes.c_bool; "
        "print(f(b'cuda:0'), f(b'cuda:'))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "True False\n"), run.stderr
