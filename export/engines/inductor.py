"""A graph in AOTInductor's hands: the module itself exported and compiled into one package of native code.

Unlike NVIDIA's builders it reads no ONNX: the module is made again from the checkpoint. Knows torch; knows nothing of
bundles, manifests or caches.
"""

import re
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor import aoti_compile_and_package, config

from e2e_deploy.export.graph.precision import CastInput, set_attention


def fit(body: nn.Module) -> nn.Module:
    """The module that ``prepare`` gives, as AOTInductor takes it best; changed in place.

    Attention is left to torch's fused kernels, which add in fp32, weights are channels last, and the timestep is a
    tensor of one number: inductor cannot compile a constant without dimensions.
    """
    set_attention(body, fused=True)
    network: Any = body.model if isinstance(body, CastInput) else body
    device = next(body.parameters()).device
    network.timestep = torch.tensor([network.timestep], device=device)
    body.requires_grad_(False).eval()
    body.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack it
    return body


def cpp_library(folder: Path) -> list[str]:
    """The libstdc++ that torch has loaded, as inductor names what to link with; nothing where it has none.

    A compiler may link its own copy into the package. The two then number the parts of a locale differently, and the
    first regular expression, with which a package reads the name of its device, calls the wrong part: a segmentation
    fault or a bad cast while it loads, seen with GCC 12 to 14.

    Args:
        folder: gets a link to the library, so that no other is found beside it.
    """
    maps = Path("/proc/self/maps")
    for line in maps.read_text().splitlines() if maps.exists() else []:
        found = re.search(r"(/.*/(libstdc\+\+\.so\.6[.0-9]*))$", line)
        if found:
            link = folder / found[2]
            link.symlink_to(found[1])
            # There is no setting for the folder; inductor writes -l and this, and splits it as a shell does.
            return [f":{link.name} -L{shlex.quote(str(folder))}"]
    return []


def configs_for(
    target: str, metadata: dict[str, str], libraries: list[str], *, autotune: bool
) -> dict[str, Any]:
    """Settings of inductor; arguments as of ``compile_package``, and ``libraries`` to link with first.

    Weights are mapped from behind the library, as torch itself does above 2 GB. As a section of it, 1.7 GB of them were
    not loaded within 50 s on a GPU. Mapped, no address of the code is beyond 2 GB of another, and what is not read
    costs no memory.
    """
    configs: dict[str, Any] = {
        "aot_inductor.metadata": metadata,
        "aot_inductor.force_mmap_weights": True,
        "aot_inductor.custom_op_libs": libraries,
        # Else the number of threads of this machine is written into the loops.
        "cpp.dynamic_threads": True,
    }
    if hasattr(config.aot_inductor, "precompile_headers"):
        # Each would be read once: with them a small model took 78 s of CPU time, without 55.
        configs["aot_inductor.precompile_headers"] = False
    # torch 2.13 is the first that can be told; before, code is for the very CPU that compiles.
    if target and hasattr(config.cpp, "march"):
        configs["cpp.march"] = target
    if autotune:
        configs |= {"max_autotune": True, "coordinate_descent_tuning": True}
    return configs


@torch.no_grad()
def compile_package(
    module: nn.Module,
    example: Tensor,
    file: Path,
    *,
    cpu_target: str,
    metadata: dict[str, str],
    autotune: bool = False,
    on_compile: Callable[[], None] = lambda: None,
) -> None:
    """Compile ``module`` for the device that it is on.

    Args:
        module: one tensor in, one tensor out; its body is what ``fit`` gives.
        example: an input, on the same device.
        file: of the package, ends in .pt2.
        cpu_target: what the code for the CPU is compiled for, as compilers call it; empty leaves it to torch.
        metadata: what the package says of itself.
        autotune: let every kernel be chosen by trial, Triton's convolutions and products too.
        on_compile: called when it is traced.
    """
    program = torch.export.export(module, (example,), strict=False)
    on_compile()
    with (
        tempfile.TemporaryDirectory(prefix="e2e-deploy-") as folder,
        # As the package will be run: cuDNN's kernels chosen by trial, and fp32 stays fp32.
        torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False),
    ):
        libraries = cpp_library(Path(folder))
        configs = configs_for(cpu_target, metadata, libraries, autotune=autotune)
        aoti_compile_and_package(program, package_path=str(file), inductor_configs=configs)
