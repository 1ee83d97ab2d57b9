"""The processes of one run: started by ``accelerate launch``, or one alone."""

from datetime import timedelta
from typing import Any

import torch

from e2e_deploy.packages import require
from e2e_deploy.train.processes.meeting import meeting_address


def join_processes() -> Any:
    """Accelerate's Accelerator, without mixed precision of its own."""
    accelerate = require("accelerate", "train")
    # What one process does alone, such as a download, must not end the others that wait for it.
    group = accelerate.utils.InitProcessGroupKwargs(
        init_method=meeting_address(), timeout=timedelta(days=1)
    )
    return accelerate.Accelerator(mixed_precision="no", kwargs_handlers=[group])


def agree(accelerator: Any, is_so: bool) -> bool:
    """Whether it is so in any process; the same answer in all of them."""
    if accelerator.num_processes == 1:
        return is_so
    flag = torch.tensor([float(is_so)], device=accelerator.device)
    return bool(accelerator.reduce(flag, "sum").item() > 0)
