"""`bench report` and `bench results`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..checkpoint import checkpoint_folder, discard_checkpoints
from ..errors import UsageError, did_you_mean
from ..exchange import export, load, merge, merged
from ..outputs import warn
from ..registry import Registry
from ..report import FORMATS, write_report
from ..store import Store
from .look import store_to_read


def report(arguments: argparse.Namespace) -> int:
    """Tables and plots from OUT/results.jsonl and the store together."""
    formats = [name.strip() for name in arguments.format.split(",")]
    if unknown := [name for name in formats if name not in FORMATS]:
        raise UsageError(f"--format: no format '{unknown[0]}'{did_you_mean(unknown[0], FORMATS)}")
    out: Path = arguments.out
    store = store_to_read(arguments)
    if arguments.clips:
        from .clips import write_clips

        write_clips(store, arguments.tasks, out)
    with merged(store, out / "results.jsonl", warn) as source:
        for path in write_report(source, out, formats, Registry(arguments.tasks).registered()):
            print(path)
    return 0


def results(arguments: argparse.Namespace) -> int:
    """Export finished trials from the store, or merge a file into it."""
    file: Path = arguments.file
    if arguments.action == "export":
        with Store(store_to_read(arguments), read_only=True) as source:
            count = export(source, file, arguments.names or None)
        print(f"{file}: {count} trials")
    else:
        if arguments.names:
            raise UsageError("bench results import takes the whole file; leave out --task")
        parsed = load(file)  # before a store is made for it
        with Store(arguments.store) as target:
            merged_in = merge(target, file, parsed)
            finished = [trial.identity for _, trial in parsed.trials]
            discard_checkpoints(checkpoint_folder(target.path), finished)
        for conflict in merged_in.conflicts:
            warn(conflict)
        print(
            f"{arguments.store}: {merged_in.added} trials added, "
            f"{merged_in.known} were there already"
        )
    return 0
