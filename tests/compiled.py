"""Compile every kernel to machine code: python -m tests.compiled CAPABILITY (80 is an A100)."""

from __future__ import annotations

import re
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from difficulty_bench.projection.kernels import OPTIONS, entries, hadamard, segments

TYPES = {
    "key": "i64", "index": "*i32", "starts": "*i32",
    **dict.fromkeys(("x", "u", "g", "factor", "base", "out"), "*fp32"),
}  # fmt: skip

CASES: list[tuple[Any, dict[str, Any], int]] = [
    *((entries.project_kernel, {"SIGNS": s, "COLUMNS": c}, 4) for s, c in ((0, 32), (1, 128))),
    (entries.transposed_kernel, {"SIGNS": False, "COLUMNS": 32, "SQUARES": False}, 4),
    (entries.transposed_kernel, {"SIGNS": False, "COLUMNS": 32, "SQUARES": True}, 4),
    (entries.transposed_kernel, {"SIGNS": True, "COLUMNS": 128, "SQUARES": False}, 4),
    (segments.gather_kernel, {"FACTOR": True, "BASE": True, "TILE": 1024}, 4),
    (segments.sum_kernel, {"BASE": True, "SEGMENTS": 16, "WIDTH": 64}, 4),
    (hadamard.transform_kernel, {"GATHER": True, "FACTOR": False, "BASE": True,
                                 "TILE": 16384, "LOW": 0, "HIGH": 14, "inner": 1}, 32),
    (hadamard.transform_kernel, {"GATHER": False, "FACTOR": True, "BASE": False,
                                 "TILE": 1024, "LOW": 5, "HIGH": 10}, 4),
]  # fmt: skip


def compile_for(kernel: Any, constants: dict[str, Any], warps: int, capability: int) -> str:
    """The PTX text, after the assembler has made machine code of it."""
    others = {n: TYPES.get(n, "i32") for n in kernel.arg_names if n not in constants}
    names = {**others, **dict.fromkeys(constants, "constexpr")}
    source = ASTSource(kernel, {n: names[n] for n in kernel.arg_names}, constants)
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": warps, **OPTIONS})
    assert compiled.asm["cubin"]
    text: str = compiled.asm["ptx"]
    return text


if __name__ == "__main__":
    texts = [compile_for(*case, int(sys.argv[1])) for case in CASES]
    if forbidden := re.findall(r"\b(?:atom|red|w?g?mma)\b.*", "\n".join(texts)):
        raise SystemExit(f"found {forbidden[0]}")
    print(f"{len(texts)} kernels, no atomics, no tensor cores")
