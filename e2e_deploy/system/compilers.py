"""The compilers that PyTorch's compiler calls to build; nothing that was built needs one to run."""

import importlib.util
import os
import shutil
import sys


def cpp_compiler() -> str:
    """Path of the C++ compiler that it calls: what CXX names, else the platform's usual one; empty without one."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    return shutil.which(os.environ.get("CXX") or usual) or ""


def why_no_compiler(*, for_gpu: bool) -> str:
    """Why PyTorch's compiler cannot build here, one sentence; empty where it can.

    Args:
        for_gpu: kernels of a GPU, which Triton compiles, and not only code of the CPU.
    """
    if for_gpu and importlib.util.find_spec("triton") is None:
        return "the package 'triton', with which PyTorch compiles for a GPU, is not installed: pip install triton"
    if not cpp_compiler():
        named = os.environ.get("CXX")
        which = (
            f"CXX names {named!r}, which is none" if named else "install g++, or name one in CXX"
        )
        return f"PyTorch's compiler needs a C++ compiler to build with, and none is here: {which}"
    return ""
