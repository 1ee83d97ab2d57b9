"""What a run imports as it goes, imported before: the processes of ``together`` begin with it."""

import accelerate.utils
import torch.distributed.checkpoint.hf_storage
import torch.distributed.fsdp
import torch.utils.tensorboard
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

import e2e_deploy.train.run.loop

assert accelerate.utils
assert torch.utils.tensorboard
assert torch.distributed.fsdp
assert AutoencoderKL
assert DDIMScheduler
assert UNet2DConditionModel
assert e2e_deploy.train.run.loop
