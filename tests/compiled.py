"""Assemble the kernels that a product launches on a GPU, without one.

    python -m tests.compiled CAPABILITY D,d ...      (80 is an A100, 90 an H100)

Everything a GPU would see happens but the launch: arguments are bound and specialised, and Triton
compiles down to machine code.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from difficulty_bench.projection import NAMES, kernels, make


class Assembler:
    """What Triton asks of a driver before it launches."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0


def assemble_all(capability: int, sizes: list[tuple[int, int]]) -> dict[str, Any]:
    """Machine code of all kernels for products of these sizes (D, d), by content."""
    compiled: dict[str, Any] = {}

    def no_launch(kernel: Any, grid: Any) -> Callable[..., None]:
        def compile_only(*args: Any, **options: Any) -> None:
            code = kernel.warmup(*args, grid=grid, **options)
            compiled[code.hash] = code

        return compile_only

    triton.runtime.driver.set_active(Assembler(capability))
    JITFunction.__getitem__ = no_launch
    kernels.apply_to = lambda x: True
    for name in sorted({*NAMES} - {"dense"}):  # dense has no kernels, and would be drawn
        for D, d in sizes:
            P, z, g = make(name, D, d, seed=1), torch.ones(d), torch.ones(D)
            P.project(z)
            P.project_transposed(g)
            P.shift(g, z, torch.empty(D))
    return compiled


if __name__ == "__main__":
    pairs = [text.split(",") for text in sys.argv[2:]]
    codes = assemble_all(int(sys.argv[1]), [(int(D), int(d)) for D, d in pairs])
    assert all(code.asm["cubin"] for code in codes.values())
    forbidden = re.compile(r"^\s*(?:@\S+\s+)?((?:atom|red|w?g?mma)\..*)", re.MULTILINE)
    if found := [hit for code in codes.values() for hit in forbidden.findall(code.asm["ptx"])]:
        raise SystemExit(f"found {found[0]}")
    names = sorted({code.metadata.name for code in codes.values()})
    print(f"{', '.join(names)}: no atomics, no tensor cores")
