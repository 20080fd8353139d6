"""What a result was made with: versions, commit, hardware, command."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePath

import joblib
import torch

# Of a GPU's memory for one process: CUDA's context, and a small network with its batches. A guess.
BYTES_OF_A_WORKER = 2 * 2**30
OWN_CGROUPS, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
MEMORY_LIMITS = {"": "memory.max", "memory": "memory.limit_in_bytes"}  # of cgroups v2, and v1
PACKAGES = (
    *("difficulty-bench", "torch", "numpy", "gymnasium"),
    *("stable-baselines3", "cma", "ale-py", "mujoco", "box2d", "triton"),
)


def describe_environment(command: str = "") -> dict[str, str]:
    """Package versions, Python, git commit, processor, cores and `command`, as plain strings."""
    return {**_machine(), "command": command}


@functools.cache
def _machine() -> dict[str, str]:
    facts = {"python": platform.python_version(), "platform": platform.system()}
    for package in PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
    facts["commit"] = _commit()
    facts["processor"] = _processor()
    facts["cores"] = str(usable_cores())
    return facts


def _commit() -> str:
    """The checkout's commit, `+changes` where the tree differs; `unknown` outside a checkout.

    A package installed somewhere below another project is no checkout of that project.
    """
    here = Path(__file__).resolve().parent
    run = functools.partial(subprocess.run, capture_output=True, text=True, cwd=here, check=True)
    try:
        if Path(run(["git", "rev-parse", "--show-toplevel"]).stdout.strip()) != here.parent:
            return "unknown"
        commit = run(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip()
        changed = run(["git", "status", "--porcelain", "--untracked-files=no"]).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}+changes" if changed else commit


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def default_workers(device: str) -> int:
    """How many trials run side by side: one a core, and of a GPU no more than its memory holds."""
    cores = usable_cores()
    if device == "cpu":
        return cores
    memory: int = torch.cuda.get_device_properties(device).total_memory
    return max(1, min(cores, memory // BYTES_OF_A_WORKER))


def usable_cores() -> int:
    """Cores that this process may use: a container's quota and an affinity mask count."""
    return int(joblib.cpu_count())


def usable_memory() -> int:
    """Bytes of memory that this process may use: a container's limit counts."""
    return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_memory_limits()])


def _memory_limits() -> Iterator[int]:
    """Of this process's control groups and of those above them, which hold for it, too."""
    with suppress(OSError):  # not Linux
        for line in OWN_CGROUPS.read_text(encoding="utf-8").splitlines():
            _, controllers, name = line.split(":", 2)
            if file := MEMORY_LIMITS.get(controllers):
                own = PurePath(name.lstrip("/"))
                for group in (own, *own.parents):
                    with suppress(OSError, ValueError):  # not seen from inside; "max"
                        yield int((CGROUPS / controllers / group / file).read_text("utf-8"))
