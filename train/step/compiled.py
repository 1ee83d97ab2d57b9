"""The blocks of the networks through torch.compile, each kind and shape once.

Compiled are residual blocks, transformers, the VAE's attention and the norms between them: what lies between two
convolutions becomes one kernel. Blocks of one shape share their code, which a network compiled whole would not.
Knows: regions, what a compiler needs. Does not know: when it is worth it.
"""

import warnings
from collections.abc import Iterator

import torch
from torch import nn

REGIONS = ("ResnetBlock2D", "AutoencoderTinyBlock", "Transformer2DModel", "Attention", "GroupNorm")
"""Classes of diffusers and torch, by name as they stand in either."""

MOST_SHAPES = 256
"""Of one kind of block; torch gives up after eight."""


def why_not_compiled(device: torch.device) -> str | None:
    """What torch.compile lacks on this device, or None."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        if has_triton():
            return None
        return (
            "torch.compile needs the package 'triton' and a GPU of compute capability 7.0 or more"
        )
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError, OSError):
        return "torch.compile needs a C++ compiler on a CPU (apt install g++)"
    return None


def compile_regions(model: nn.Module) -> int:
    """Have the regions of ``model`` compiled when they are first called; returns how many there are."""
    torch._dynamo.config.recompile_limit = MOST_SHAPES
    # diffusers asks for torch's version in its forward passes; torch advises how float32 could be less exact.
    warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
    warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
    regions = list(_outermost(model))
    for region in regions:
        if type(region).__name__ == "ResnetBlock2D":
            # In training mode, which tells itself nothing else, it turns its input to channels first and back.
            region.training = False
        region.compile(dynamic=False)
    return len(regions)


def _outermost(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if type(child).__name__ in REGIONS:
            yield child
        else:
            yield from _outermost(child)
