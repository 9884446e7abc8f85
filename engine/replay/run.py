"""A replay on this machine: in this process, or on as many cores as there are."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice

from engine.replay.errors import Interrupted, ReplayError
from engine.replay.items import Chunk
from engine.replay.tally import Tally
from engine.replay.work import Job, Replayer

# Chunks that wait or are under way, for each worker: what is read ahead stays bounded.
_AHEAD = 3
# Told what has been found so far, after every chunk.
Told = Callable[[Tally], None]


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def run_local(job: Job, chunks: Iterable[Chunk], workers: int, told: Told = lambda _: None) -> Tally:
    """Replays all chunks. workers: processes; with one, or with a single chunk, all is done in this process.

    Raises Interrupted, with what was found until then; ReplayError when a worker dies; RecordError and BundleError.
    """
    total = Tally()
    waiting = iter(chunks)
    try:
        first = list(islice(waiting, 2))
        if workers <= 1 or len(first) < 2:
            replayer = Replayer(job)
            for chunk in chain(first, waiting):
                total.add(replayer.run(chunk))
                told(total)
        else:
            _run_many(job, chain(first, waiting), workers, total, told)
    except KeyboardInterrupt:
        raise Interrupted(total) from None
    return total


def _run_many(job: Job, chunks: Iterable[Chunk], workers: int, total: Tally, told: Told) -> None:
    # A forked process would inherit the threads of ONNX Runtime half.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(job,))
    under_way: deque[Future[Tally]] = deque()
    try:
        for chunk in chunks:
            under_way.append(_submit(pool, chunk))
            if len(under_way) >= workers * _AHEAD:
                total.add(under_way.popleft().result())
                told(total)
        while under_way:
            total.add(under_way.popleft().result())
            told(total)
    except BrokenProcessPool as error:
        raise ReplayError("a worker process died; run with fewer --workers if memory is short") from error
    finally:
        # What is under way ends with its chunk, which takes less than a second.
        pool.shutdown(wait=True, cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, chunk: Chunk) -> Future[Tally]:
    """Hands a chunk over, which may start a process: an interrupt that comes meanwhile waits, and the process, which
    inherits that, never meets one. It is for this process to act on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(_do, chunk)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_replayer: Replayer | None = None


def _begin(job: Job) -> None:
    """Once in every worker."""
    global _replayer  # noqa: PLW0603 - a worker process has one job
    _replayer = Replayer(job)


def _do(chunk: Chunk) -> Tally:
    assert _replayer is not None
    return _replayer.run(chunk)
