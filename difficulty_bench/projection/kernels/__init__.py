"""The same products as Triton kernels, for CUDA tensors in float32; torch's code is the reference.

No kernel uses atomics or tensor cores: results repeat exactly, and no TF32 setting reaches them.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

# a * b + c in one rounding: Triton 3.10 turns it off otherwise.
OPTIONS = {"enable_fp_fusion": True}
enabled = importlib.util.find_spec("triton") is not None


def apply_to(x: Tensor) -> bool:
    """Whether products of `x` run on the kernels: float32 on CUDA, and triton is installed."""
    return enabled and x.is_cuda and x.dtype == torch.float32
