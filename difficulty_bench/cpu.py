"""How a trial uses the core it has."""

from __future__ import annotations

import ctypes
import sys

import torch
from threadpoolctl import threadpool_limits

from .environment import usable_cores

# <malloc.h> of glibc
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def use_one_thread(device: torch.device) -> None:
    """On a CPU, compute with one thread from now on: scores hang on how sums are shared out.

    Trials use the cores side by side, and networks this small gain little from a second one.
    numpy's linear algebra, in which CMA-ES computes, has threads of its own, whatever the device.
    """
    threadpool_limits(1, user_api="blas")
    if device.type == "cpu":
        torch.set_num_threads(1)


def share_cores(processes: int) -> None:
    """In one of so many processes side by side: torch's threads, and the emulators that follow
    their number, take this one's share of the cores, where the trial itself asks for no fewer.
    """
    torch.set_num_threads(max(1, usable_cores() // processes))


def keep_freed_memory(device: torch.device) -> None:
    """On a CPU, keep what tensors free for the next ones, where libc is glibc.

    glibc hands large blocks back to the kernel as they are freed, so every training step would
    fault its activations in anew, page by page.
    """
    if device.type != "cpu" or sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)  # bytes
