"""Which GPUs TensorRT-RTX serves, by compute capability, and what is said of one that it does not.

Sources: the support matrices of TensorRT-RTX 1.0 to 1.5 list 7.5, 8.6, 8.9, 12.0 and 12.1; its pages on building
without a GPU and its builder name 8.0 too. An H200 refused portable plans with UNSUPPORTED_CC.
"""

import re
from typing import Literal

from e2e_deploy.nvidia.cuda_driver import Gpu

SERVED = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
NOT_SERVED = {
    "sm87": "Jetson Orin",
    "sm90": "H100, H200",
    "sm100": "B200",
    "sm101": "Jetson Thor, as CUDA 12 counts it",
    "sm103": "B300",
    "sm110": "Jetson Thor",
}
"""Compute capability: which GPUs have it. So has everything before the first of SERVED."""


def _number(target: str) -> int:
    return int(re.sub(r"\D", "", target) or 0)


def serves(target: str) -> bool:
    """Whether TensorRT-RTX may serve a GPU of this compute capability, sm89 for example.

    One that is in neither table, of a GPU that came later, is left to the library.
    """
    return target not in NOT_SERVED and _number(target) >= _number(SERVED[0])


def rtx_refusal(gpu: Gpu, argument: Literal["backend", "engine"] = "backend") -> str:
    """Why no plan of TensorRT-RTX runs on this GPU and what does, one sentence; empty where one may.

    Args:
        gpu: the GPU at hand.
        argument: of what the user calls, which takes the way out.
    """
    if serves(gpu.target):
        return ""
    return (
        f"TensorRT-RTX does not serve this GPU, {gpu.name} ({gpu.target}), only {', '.join(SERVED)}; "
        f'use TensorRT (`{argument}="tensorrt"`) or PyTorch\'s compiler (`{argument}="inductor"`)'
    )
