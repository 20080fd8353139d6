"""`bench data` and `bench doctor`: what this machine holds and can do."""

from __future__ import annotations

import argparse
import importlib
import shutil

import torch

from ..environment import default_workers, describe_environment
from ..errors import BenchError
from ..registry import Registry
from ..study import choose_device

DATA_MODULE = "envs.data"


def data(arguments: argparse.Namespace) -> int:
    """Fetch or verify data sets; exit code 3 where a file is missing or corrupt."""
    source = importlib.import_module(DATA_MODULE)
    names: list[str] = arguments.names or source.names()
    for name in names:
        source.dataset(name)  # raises for one that is not known, before any is fetched
    bad = 0
    for name in names:
        if arguments.action == "fetch":
            source.fetch(name)
        for file, ok, message in source.verify(name):
            bad += not ok
            print(f"{name}  {file}: {message}")
    return 3 if bad else 0


def doctor(arguments: argparse.Namespace) -> int:
    """One line per thing that a measurement may need."""
    for key, value in describe_environment().items():
        if key != "command":
            print(f"{key:20} {value}")
    device = choose_device("auto")
    print(f"{'default workers':20} {default_workers(device)}")
    cuda = torch.cuda.is_available()
    print(f"{'cuda':20} {torch.cuda.get_device_name() if cuda else 'none; trials run on the CPU'}")
    print(f"{'free disk':20} {shutil.disk_usage('.').free / 1e9:.0f} GB")
    registry = Registry(arguments.tasks)
    for name in registry.names():
        print(f"{'task ' + name:34} {_lack(registry, name) or 'usable'}")
    return 0


def _lack(registry: Registry, name: str) -> str | None:
    try:
        task = registry.get(name)
        return task.problem.missing(task.problem())
    except BenchError as error:
        return str(error)
