"""Where trials run: in this process, in several beside it, or on a cluster (`ray_engine`)."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from types import FrameType
from typing import Any

from .context import Interrupted
from .cpu import share_cores
from .errors import BenchError, ResourceError
from .results import TrialResult
from .together import groups, run_together
from .trial import Runtime, Trial, process_died, run_trial

GRACE_S = 30.0  # for running trials to reach their next tick after a stop request
LATE_S = 600.0  # after the deadline: evaluations, which do not tick, may end


class Engine(ABC):
    """Runs trials and yields their results as they finish, in any order.

    Every trial that is not interrupted gives exactly one result, or none where its process dies
    and dies again: `run` raises ResourceError for it, after the results of the others. It raises
    Interrupted once the deadline or `stop()` ended it, after the results that were still finished
    have been yielded. Results do not depend on the engine.
    """

    @abstractmethod
    def run(self, trials: Sequence[Trial], runtime: Runtime) -> Iterator[TrialResult]: ...

    @abstractmethod
    def stop(self) -> None:
        """Ask running trials to checkpoint and end; safe to call from a signal handler."""

    @abstractmethod
    def close(self) -> None:
        """End what still runs, as after an error, and release everything."""


class InlineEngine(Engine):
    """In this process: one trial after another, or up to `size` of a round in one program.

    A group that does not fit the memory is halved, and so is every later one. `warn` hears of
    it, and why trials of a group trained one by one, once in the same words.
    """

    def __init__(self, size: int = 1, warn: Callable[[str], None] = warnings.warn) -> None:
        self._size, self._warn = size, warn
        self._said: set[str] = set()
        self._stop = threading.Event()

    def run(self, trials: Sequence[Trial], runtime: Runtime) -> Iterator[TrialResult]:
        runtime = replace(runtime, stop=self._stop)
        waiting = groups(trials, self._size)
        while waiting:
            group = waiting.pop(0)
            try:
                yield from run_together(group, runtime, self._say)
            except MemoryError:
                self._size = max(1, len(group) // 2)
                name, unfit = group[0].task.name, f"{len(group)} trials do not fit the memory"
                self._say(f"{name}: {unfit}; at most {self._size} train together from here on")
                waiting = groups([t for g in (group, *waiting) for t in g], self._size)

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._warn(text)

    def stop(self) -> None:
        self._stop.set()

    def close(self) -> None:
        pass


class _WorkerStop:
    """Of a worker process: whether its parent, or a SIGTERM to the worker itself, asks it to stop.

    A scheduler may signal every process of a job at once: the worker shall still checkpoint.
    """

    def __init__(self, of_parent: Any) -> None:
        self._of_parent, self._signalled = of_parent, False

    def hear(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True  # a lock must not be taken in a signal handler

    def is_set(self) -> bool:
        return self._signalled or bool(self._of_parent.is_set())


_worker_stop: Any = None


def _start_worker(stop: Any, parent: int, workers: int) -> None:
    """Share the cores, leave Ctrl-C to the parent, end when the parent is gone (killed, too)."""
    global _worker_stop
    _worker_stop = _WorkerStop(stop)
    share_cores(workers)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _worker_stop.hear)
    # processes that a problem forks (an AsyncVectorEnv's) must end when they are told to
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _work(trial: Trial, runtime: Runtime) -> TrialResult | None:
    """The result, or None where the trial was interrupted."""
    runtime = replace(runtime, stop=_worker_stop)
    if runtime.must_stop():
        return None
    try:
        return run_trial(trial, runtime)
    except Interrupted:
        return None


class ProcessEngine(Engine):
    """`workers` processes, one trial each: on a CPU with one thread, on a GPU with its share."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        self._stopping = threading.Event()
        self._pool: ProcessPoolExecutor | None = None

    def run(self, trials: Sequence[Trial], runtime: Runtime) -> Iterator[TrialResult]:
        waiting = deque({trial.identity: trial for trial in trials}.values())
        died = list[Trial]()
        try:
            while waiting:
                running: dict[Future[TrialResult | None], Trial] = {}
                try:
                    yield from self._in_pool(waiting, running, runtime)
                except BrokenProcessPool:
                    self._kill()
                    if self._stopping.is_set():
                        raise Interrupted("stopped") from None
                    died += yield from self._alone(list(running.values()), runtime)
        except BenchError:  # of the task: its other trials shall not hold up the next one's
            self._kill()
            raise
        if died:
            raise process_died(died[0], "its process died twice, perhaps for lack of memory")

    def _in_pool(
        self,
        waiting: deque[Trial],
        running: dict[Future[TrialResult | None], Trial],
        runtime: Runtime,
    ) -> Iterator[TrialResult]:
        """Take trials from `waiting`; `running` are those in the workers' hands.

        Where one finds that the machine is at fault, the others checkpoint before that is raised.
        """
        pool = self._open()
        fault: ResourceError | None = None
        interrupted, stopped_at = False, 0.0
        while running or (waiting and not stopped_at):
            while waiting and len(running) < self._workers and not stopped_at:
                running[pool.submit(_work, waiting[0], runtime)] = waiting[0]
                waiting.popleft()
            done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            # a dead worker shall not hide what came in
            for future in sorted(done, key=lambda future: future.exception() is not None):
                try:
                    result = future.result()
                except ResourceError as error:
                    fault, result = fault or error, None
                del running[future]
                interrupted |= result is None
                if result is not None:
                    yield result
            if interrupted or self._stopping.is_set() or runtime.must_stop():
                self._pool_stop.set()  # one worker alone may have been signalled
                stopped_at = stopped_at or time.monotonic()
                late = not (fault or self._stopping.is_set())
                if time.monotonic() - stopped_at > (LATE_S if late else GRACE_S):
                    break
        if stopped_at:
            self._kill()  # its workers were told to stop
        if fault is not None:
            raise fault
        if stopped_at and (interrupted or running or waiting):
            raise Interrupted("stopped")

    def _alone(
        self, trials: list[Trial], runtime: Runtime
    ) -> Generator[TrialResult, None, list[Trial]]:
        """After a worker died, what the workers had: one at a time, so that the trial that kills is
        found. Return those whose process died again.
        """
        died = []
        for trial in trials:
            self._kill()
            try:
                yield from self._in_pool(deque([trial]), {}, runtime)
            except BrokenProcessPool:
                died.append(trial)
        self._kill()
        return died

    def _open(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Anew for each pool: a worker that was killed may have held the lock inside.
            self._pool_stop = self._context.Event()
            self._pool = ProcessPoolExecutor(
                self._workers,
                mp_context=self._context,
                initializer=_start_worker,
                initargs=(self._pool_stop, os.getpid(), self._workers),
            )
            if self._stopping.is_set():
                self._pool_stop.set()
        return self._pool

    def _kill(self) -> None:
        if self._pool is not None:
            for process in list((self._pool._processes or {}).values()):
                process.kill()
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def stop(self) -> None:
        self._stopping.set()
        if self._pool is not None:
            self._pool_stop.set()

    def close(self) -> None:
        if self._stopping.is_set():  # `run` has waited; what still runs was told to end at once
            self._kill()
        self.stop()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


def make_engine(
    workers: int, batch: int | None, ray: str | None, warn: Callable[[str], None]
) -> Engine:
    """`batch` trials in one program, a cluster at `ray`, or `workers` processes of one trial each.

    Raise ResourceError where Ray is not installed or its cluster cannot be reached.
    """
    if ray is not None:
        try:
            from .ray_engine import RayEngine
        except ModuleNotFoundError:
            raise ResourceError(
                "--ray: Ray is not installed; pip install 'difficulty-bench[ray]'"
            ) from None
        return RayEngine(ray)
    if batch is not None or workers == 1:
        return InlineEngine(batch or 1, warn)
    return ProcessEngine(workers)
