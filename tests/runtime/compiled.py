"""Real packages of AOTInductor for plain bundles: compiled once for all processes of a test run."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from e2e_deploy.bundle.bundle import open_bundle
from e2e_deploy.bundle.cpu_targets import cpu_targets
from e2e_deploy.nvidia.cuda_driver import current_gpu
from e2e_deploy.nvidia.hardware import cpu_features
from tests.runtime.packages import list_package, says

COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")


def here():
    """What this CPU runs, skipping where no package can be compiled for it."""
    if COMPILER is None:
        pytest.skip("no C++ compiler is here, which AOTInductor needs")
    if sys.platform != "linux" or not cpu_targets(cpu_features()):
        pytest.skip(f"{platform.machine()} on {sys.platform} has no name that code is compiled for")
    return cpu_targets(cpu_features())[0]


def _compile(task, precision, shape, metadata, target, device, file):
    import torch
    from torch import nn

    from e2e_deploy.export.engines.inductor import compile_package

    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]

    class Plain(nn.Module):
        """What tests/plain_bundle.py computes."""

        def forward(self, frame):
            rgb = frame.to(dtype)
            depth, vector = (rgb.mean(-1) / 255).float(), rgb - 127.5
            normals = (vector / vector.norm(dim=-1, keepdim=True)).float()
            made = {"depth": depth, "normals": normals, "geometry": (depth, normals)}
            return made[task]

    example = torch.zeros(shape, dtype=torch.uint8, device=device)
    compile_package(Plain().eval(), example, file, cpu_target=target, metadata=metadata)


def _facts(device, target):
    """What the manifest says of a package for this machine."""
    import torch

    if device == "cpu":
        return {"version": torch.__version__, "target": target, "gpu": "", "cuda": 0}
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    gpu = current_gpu()
    major = int(torch.version.cuda.partition(".")[0])
    return {"version": torch.__version__, "target": gpu.target, "gpu": gpu.name, "cuda": major}


def add_package(root, shared: Path, device="cpu"):
    """Compile a plain bundle's first graph for this CPU or GPU, or take it from ``shared``, and list it; its path."""
    fcntl = pytest.importorskip("fcntl", reason="the lock between test processes is POSIX's")
    target = here()
    facts = _facts(device, target)
    bundle = open_bundle(root)
    manifest = bundle.manifest
    graph = manifest.graphs[0]
    metadata = {k: v for k, v in says(root, graph, manifest).items() if not k.startswith("AOTI")}
    digest = next(iter(metadata.values()))
    file = shared / f"{digest[:16]}-{manifest.precision}-{device}.pt2"
    with open(shared / "compiling.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            try:
                _compile(
                    manifest.task,
                    manifest.precision,
                    graph.inputs[0].shape,
                    metadata,
                    target,
                    device,
                    file.with_suffix(".new.pt2"),
                )
            except subprocess.CalledProcessError as error:
                pytest.skip(f"the C++ compiler here does not compile for {target}: {error}")
            file.with_suffix(".new.pt2").rename(file)
    return list_package(root, file.read_bytes(), graph, **facts)
