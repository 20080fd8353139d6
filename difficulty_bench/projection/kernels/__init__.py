"""The same products as Triton kernels, for CUDA tensors in float32; torch's code is the reference.

No kernel uses atomics or tensor cores: results repeat exactly, and no TF32 setting reaches them.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings

import torch
from torch import Tensor

from ...errors import described

# a * b + c in one rounding, whatever TRITON_DEFAULT_FP_FUSION says.
OPTIONS = {"enable_fp_fusion": True}
enabled = importlib.util.find_spec("triton") is not None


def apply_to(x: Tensor) -> bool:
    """Whether products of `x` run on the kernels: float32 on CUDA, and triton is installed.

    Triton launches on the current device, whichever one `x` is on.
    """
    if not (enabled and x.is_cuda and x.dtype == torch.float32):
        return False
    return x.device.index == torch.cuda.current_device() and usable()


@functools.cache
def usable() -> bool:
    """Whether Triton can launch here: it builds a module first, with a C compiler and libcuda."""
    import triton

    try:
        if not triton.knobs.runtime.interpret:
            triton.runtime.driver.active.get_current_device()
    except Exception as error:  # RuntimeError, AssertionError or CalledProcessError
        warnings.warn(
            f"Triton does not run here, so torch's code does: {described(error)}", stacklevel=2
        )
        return False
    return True
