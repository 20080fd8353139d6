"""Trials on a Ray cluster. Imported only where `--ray` asks for it."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError, TaskCancelledError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from .context import Interrupted
from .engine import GRACE_S, LATE_S, Engine
from .entry_point import search_folder, users_folders
from .errors import BenchError, ResourceError, first_line
from .results import TrialResult
from .trial import Runtime, Trial, process_died, run_trial

LOCAL = "local"  # Ray's own word for a cluster of this machine alone, that ends with the command
POLL_S = 0.5
REACH_S = 5.0  # for a head node to answer
ATTEMPTS = 2  # at a trial whose process or node died


@ray.remote(num_cpus=0)
class _Flag:
    """Whether the cluster's trials shall stop."""

    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set


@ray.remote(num_cpus=1, max_retries=0)
def _work(trial: Trial, runtime: Runtime, flag: Any, folders: Sequence[Path]) -> TrialResult | None:
    """The result, or None where the trial was interrupted.

    `folders` hold the user's own modules. Where this node alone is going down, the trial leaves its
    checkpoint and its process ends: the driver tries it again on another.
    """
    stop, done = threading.Event(), threading.Event()
    if runtime.must_stop() or ray.get(flag.is_set.remote()):
        return None
    for folder in folders:
        search_folder(folder)
    # Ray's own handler exits, as a learner might
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=_follow, args=(flag, stop, done), daemon=True).start()
    try:
        return run_trial(trial, replace(runtime, stop=stop))
    except Interrupted:
        if not runtime.must_stop() and not ray.get(flag.is_set.remote()):
            os._exit(1)
        return None
    finally:
        signal.signal(signal.SIGTERM, before)
        done.set()


def _follow(flag: Any, stop: threading.Event, done: threading.Event) -> None:
    while not done.wait(POLL_S):
        if ray.get(flag.is_set.remote()):
            stop.set()
            return


class RayEngine(Engine):
    """A trial to a core of the cluster at `address`, and as many to each of its GPUs as come to it.

    `address` is `local`, `auto` or HOST:PORT of a head node. Nodes need this package, the data and
    whatever the task's entry points name; a checkpoint is found again where they share the store's
    folder. A trial whose process or node died is tried ATTEMPTS times. Where GPUs are used, nodes
    without one rest. Raise ResourceError where the cluster cannot be reached, or lacks what a trial
    needs.
    """

    def __init__(self, address: str) -> None:
        _connect(address)
        here = ray.get_runtime_context().get_node_id()
        beside = NodeAffinitySchedulingStrategy(here, soft=False)  # it lives as long as the driver
        self._flag = _Flag.options(scheduling_strategy=beside).remote()  # type: ignore[attr-defined]
        self._stop = threading.Event()

    def run(self, trials: Sequence[Trial], runtime: Runtime) -> Iterator[TrialResult]:
        runtime, work = _on_nodes(runtime)
        folders = users_folders()

        def submit(trial: Trial) -> Any:
            return work.remote(trial, runtime, self._flag, folders)

        pending = {submit(trial): trial for trial in trials}
        died: Counter[str] = Counter()
        lost: ResourceError | None = None
        interrupted, stopped_at = False, 0.0
        try:
            while pending:
                done, _ = ray.wait(list(pending), timeout=POLL_S)
                for reference in done:
                    trial = pending.pop(reference)
                    try:
                        result = _result(reference)
                    except RayError as error:
                        died[trial.identity] += 1
                        if stopped_at or self._stop.is_set():
                            result = None  # killed on the way out
                        elif died[trial.identity] < ATTEMPTS:
                            pending[submit(trial)] = trial
                            continue
                        else:
                            why = f"its process or node died twice: {first_line(error)}"
                            lost = lost or process_died(trial, why)
                            continue
                    interrupted |= result is None
                    if result is not None:
                        yield result
                if not stopped_at and (self._stop.is_set() or runtime.must_stop()):
                    stopped_at = time.monotonic()
                    if self._stop.is_set():
                        self._flag.set.remote()  # of the deadline, running trials know themselves
                grace = GRACE_S if self._stop.is_set() else LATE_S
                if stopped_at and time.monotonic() - stopped_at > grace:
                    break
        except BenchError:  # of the task: its other trials shall not hold up the next one's
            _cancel(pending)
            raise
        _cancel(pending)
        if interrupted or pending:
            raise Interrupted("stopped")
        if lost is not None:
            raise lost

    def stop(self) -> None:
        self._stop.set()  # `run` tells the cluster: a signal handler must not

    def close(self) -> None:
        self._stop.set()
        ray.shutdown()  # tasks and actors of this driver end with it


def _connect(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdecimal():  # Ray itself waits a minute
            socket.create_connection((host, int(port)), timeout=REACH_S).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError, RayError) as error:
        raise ResourceError(
            f"--ray {address}: {first_line(error)}; on a node of the cluster, give HOST:PORT of "
            f"its head (with RAY_AUTH_MODE=token where it asks for a token) or auto; or {LOCAL}"
        ) from None


def _on_nodes(runtime: Runtime) -> tuple[Runtime, Any]:
    """The runtime as a node needs it, and the task to submit."""
    share, folder = _gpu_share(runtime.device), runtime.checkpoint_dir
    there = replace(
        runtime,
        device="cuda" if share else "cpu",
        checkpoint_dir=folder.absolute() if folder else None,
        stop=None,
    )
    return there, _work.options(num_gpus=share)


def _gpu_share(device: str) -> float:
    """GPUs for one trial: so that, with a core each, as many as fit share one."""
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus, cores = resources.get("GPU", 0.0), resources.get("CPU", 0.0)
    if not cores:
        raise ResourceError("--ray: no node of the cluster has a core to give; add one that has")
    if device == "cuda" and not gpus:
        raise ResourceError("--device cuda: the Ray cluster has no GPU; use --device cpu")
    return 0.0 if device == "cpu" or not gpus else 1.0 / max(1, math.ceil(cores / gpus))


def _cancel(pending: Iterable[Any]) -> None:
    for reference in pending:
        ray.cancel(reference, force=True)


def _result(reference: Any) -> TrialResult | None:
    """Raise what the trial raised where that is of ours, RayError where its process died."""
    try:
        result: TrialResult | None = ray.get(reference)
    except TaskCancelledError:
        return None
    except RayTaskError as error:
        if isinstance(error.cause, BenchError | RayError):
            raise error.cause from None
        raise ResourceError(
            f"a node of the Ray cluster cannot run trials: {first_line(error.cause)}; install "
            "difficulty-bench, and what the task's entry points name, on every node"
        ) from None
    return result
