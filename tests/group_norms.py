"""A group norm with weights that all differ, for tests of other forms of it."""

import torch
from torch import nn


def seeded_norm(groups, channels, seed=0):
    """In float64."""
    torch.manual_seed(seed)
    norm = nn.GroupNorm(groups, channels, eps=1e-6).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm
