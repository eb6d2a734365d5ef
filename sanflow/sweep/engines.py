"""Where cells run: in processes of this machine, or of every machine of a Ray cluster.

Both start the same process for a cell (process.py), so both give the same figures. On a cluster the
sweep's folder and the data must lie on a file system that every machine sees under the same path.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from .. import __version__
from ..errors import EngineError, SanflowError
from .process import Outcome, run_process


@dataclass(frozen=True)
class Task:
    """A prepared cell."""

    folder: str
    threads: int
    gpus: float


Outcomes = Generator[Outcome, None, None]
Engine = Callable[[Sequence[Task]], Outcomes]
"""Runs all tasks, in any order; closing the generator ends those that are running."""


def local_engine(jobs: int) -> Engine:
    """Up to `jobs` cells at a time on this machine."""

    def run(tasks: Sequence[Task]) -> Outcomes:
        stop = threading.Event()
        pool = ThreadPoolExecutor(jobs, thread_name_prefix="sanflow-sweep")
        pending: set[Future[Outcome]] = {
            pool.submit(run_process, task.folder, task.threads, stop.is_set) for task in tasks
        }
        try:
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    return run


def ray_engine(address: str | None) -> Engine:
    """As many cells at a time as the cluster at `address` has room for; None: this machine's Ray.

    Raises EngineError when the cluster cannot be reached.
    """
    if address is not None:
        _require_reachable(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    import ray

    def run(tasks: Sequence[Task]) -> Outcomes:
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise EngineError(f"Ray at {address or 'this machine'}: {error}") from None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's own would end without a message
        try:
            yield from _on_ray(ray, tasks)
        finally:
            ray.shutdown()  # ends the tasks that are still running

    return run


def _require_reachable(address: str) -> None:
    """Ray itself waits for minutes where nobody answers."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        if address in ("auto", "local"):
            return
        raise EngineError(f"Ray at {address!r}: expected HOST:PORT, ray://HOST:PORT or auto")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise EngineError(
            f"Ray at {address}: nobody answers ({error}); start it with `ray start --head` "
            "and give the address that it prints"
        ) from None


def _on_ray(ray: Any, tasks: Sequence[Task]) -> Outcomes:
    """Outcomes as they come. A task whose machine was lost is run again on another one."""
    remote = ray.remote(_on_node)
    pending = {
        remote.options(num_cpus=task.threads, num_gpus=task.gpus, max_retries=3).remote(
            task.folder, task.threads, __version__
        ): task
        for task in tasks
    }
    while pending:
        ready, _ = ray.wait(list(pending), num_returns=1, timeout=1.0)
        for found in ready:
            yield _outcome(ray, pending.pop(found), found)


def _outcome(ray: Any, task: Task, found: Any) -> Outcome:
    try:
        outcome: Outcome = ray.get(found)
    except ray.exceptions.RayTaskError as error:
        cause = error.as_instanceof_cause()
        if isinstance(cause, SanflowError):
            raise EngineError(str(cause)) from None
        raise
    except ray.exceptions.RayError as error:
        return Outcome(task.folder, f"Ray lost it: {' '.join(str(error).split())[:300]}", "")
    return outcome


def _on_node(folder: str, threads: int, version: str) -> Outcome:
    """What a machine of the cluster does with a task."""
    if version != __version__:
        raise EngineError(
            f"a machine of the cluster has sanflow {__version__}, the sweep was started with "
            f"{version}; install the same version on all"
        )
    return run_process(folder, threads)
