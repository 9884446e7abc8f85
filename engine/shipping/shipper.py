"""Ships a journal directory to Cassandra, on a thread behind the answers, for as long as the process lives.

    segments -> a batch -> Cassandra has it -> checkpoint -> segments that are through are let go

A crash anywhere repeats a batch at most, and a repeated batch changes nothing. While Cassandra is away the journal
grows, and the shipper goes on by itself when it is back. Of several processes that share a directory one ships what
all of them write; when it ends, another one takes over.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from engine.errors import AssayError, RecordError
from engine.features.stores.cassandra_link import CassandraLink
from engine.features.stores.cassandra_schema import check_schema
from engine.features.stores.cassandra_settings import CassandraSettings
from engine.record.journal import WorkerLock
from engine.shipping.drop import Hold, SegmentDropper
from engine.shipping.rows import RowMaker
from engine.shipping.settings import ShipSettings
from engine.shipping.sink import CassandraSink
from engine.shipping.state import Checkpoint, ShipperStatus, ShippingState
from engine.shipping.statements import WRITES
from engine.shipping.subjects import NoSubjects, Subjects
from engine.shipping.tail import oldest_moment_us, read_batch, segments_of, waiting, workers_of

_log = logging.getLogger("assay.shipping")
_STATUS_EVERY_S = 2.0
_DROP_EVERY_S = 30.0
_ROWS_MIN = 16
_JOIN_S = 5.0


class Shipper:
    """Safe to start, ask and stop from any thread. Start it after the last fork.

    journal: the directory, which need not be there yet. cassandra: where to; its keyspace was made by `assay store
    migrate`. subjects: who decisions are about, and the keys of sealed parts. holds: each says up to where somebody
    else has read a worker's segments and will not again; segments beyond stay. head_key: signs where a chain goes on
    behind segments that are let go, `MasterKey.heads`.

    Raises StoreError for certificates that cannot be read.
    """

    def __init__(
        self,
        journal: Path,
        cassandra: CassandraSettings,
        settings: ShipSettings | None = None,
        *,
        subjects: Subjects | None = None,
        holds: tuple[Hold, ...] = (),
        head_key: bytes | None = None,
    ) -> None:
        self._journal, self._settings = Path(journal), settings or ShipSettings()
        self._subjects: Subjects = subjects or NoSubjects()
        self._state = ShippingState(self._journal)
        self._link = CassandraLink(cassandra, WRITES, partial(check_schema, cassandra), lazy=True)
        self._dropper = SegmentDropper(self._journal, self._settings.keep_local_s, holds, head_key)
        self._lock: WorkerLock | None = None
        self._sink: CassandraSink | None = None
        self._rows = self._settings.batch_rows
        self._attempts = 0
        self._status = ShipperStatus()
        self._next_status_s = self._next_drop_s = 0.0
        self._stop = threading.Event()
        self._turn = threading.Lock()
        self._thread: threading.Thread | None = None

    # --- what others call -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to ship. Returns at once."""
        self._thread = threading.Thread(target=self._run, name="assay-shipper", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = _JOIN_S) -> None:
        """End. A batch under way is given up, and repeated by who ships next. Harmless when repeated."""
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(timeout_s)
        self._link.close()
        with self._turn:
            self._let_go()

    def status(self) -> ShipperStatus:
        """How it goes; when another process ships, what that one last said, with what waits counted anew."""
        own = self._status
        said = own if own.leading else replace(self._state.status() or own, leading=False)
        return with_waiting(self._journal, self._state, said)

    def ship_once(self, until: Callable[[], bool] = lambda: False) -> ShipperStatus:
        """Ship all that is there now, or until `until` says so, and let segments go. For commands and tests; not
        beside `start`. Raises RecordError when another process ships, StoreError when Cassandra does not take it."""
        with self._turn:
            if not self._lead():
                raise RecordError(f"another process ships {self._journal}")
            while not until() and not self._stop.is_set():
                if not self._round():
                    break
            self._drop()
            self._state.keep_status(self._note())
        return self.status()

    # --- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        wait_s = 0.0
        while not self._stop.wait(wait_s):
            began_s = time.monotonic()
            try:
                with self._turn:
                    moved = self._lead() and self._round()
                    self._drop_in_time()
            except AssayError as error:
                wait_s = self._failed(str(error))
            except Exception as error:  # the thread must live: without it the journal only grows
                _log.exception("the shipper failed in an unforeseen way")
                wait_s = self._failed(type(error).__name__)
            else:
                self._well()
                worked_s = time.monotonic() - began_s
                wait_s = worked_s * (1 / self._settings.share - 1) if moved else self._settings.poll_s
            self._tell_in_time()

    def _lead(self) -> bool:
        """Whether this process ships; takes the part when it is free."""
        if self._lock is not None:
            return True
        if not self._journal.is_dir():
            return False
        self._lock = self._state.lead()
        if self._lock is None:
            return False
        try:
            self._open(self._state.source())
        except BaseException:
            self._let_go()
            raise
        self._status = replace(self._status, leading=True)
        return True

    def _open(self, source: str) -> None:
        make = RowMaker(source, self._settings.retention, self._subjects)
        self._sink = CassandraSink(self._link, source, make, self._settings)

    def _let_go(self) -> None:
        lock, self._lock = self._lock, None
        self._status = replace(self._status, leading=False)
        if lock is not None:
            lock.release()

    def _round(self) -> bool:
        """One batch of each worker. Whether there was any. Raises RecordError, StoreError."""
        moved = False
        for worker in workers_of(self._journal):
            if self._stop.is_set():
                break
            moved = self._ship(worker) or moved
        return moved

    def _ship(self, worker: str) -> bool:
        checkpoint = self._checked(worker, self._state.checkpoint(worker))
        batch = read_batch(self._journal, worker, checkpoint, self._rows, self._settings.batch_bytes)
        if batch is None:
            return False
        assert self._sink is not None
        try:
            counted = self._sink.write(batch.frames, batch.passed)
        except AssayError:
            # What is too much at once for a node that is busy may pass in smaller portions.
            self._rows = max(_ROWS_MIN, self._rows // 2)
            raise
        self._state.keep_checkpoint(worker, batch.upto)
        self._rows = min(self._settings.batch_rows, self._rows * 2)
        if batch.damage:
            _log.warning(
                "damaged bytes of the journal were shipped as they are",
                extra={"worker": worker, "stretches": batch.damage, "before": str(batch.upto.position)},
            )
        now = self._status
        self._status = replace(
            now,
            shipped_frames=now.shipped_frames + len(batch.frames),
            shipped_decisions=now.shipped_decisions + counted.decisions,
            shipped_bytes=now.shipped_bytes + sum(len(frame.payload) for frame in batch.frames),
            expired=now.expired + counted.expired,
            damage=now.damage + batch.damage,
        )
        return bool(batch.frames)

    def _checked(self, worker: str, checkpoint: Checkpoint | None) -> Checkpoint | None:
        """The checkpoint, unless the segments are not those that it was made of: then all is shipped, under a new
        name of the journal, for what was shipped before goes by the same numbers."""
        if checkpoint is None:
            return None
        segments = segments_of(self._journal, worker)
        if not segments or segments[-1] >= checkpoint.segment:
            return checkpoint
        self._open(self._state.rename())
        _log.warning("the journal begins anew, and is shipped under a new name", extra={"worker": worker})
        return None

    # --- what goes on beside --------------------------------------------------------------------------------------

    def _failed(self, error: str) -> float:
        """Note a failure. Gives the seconds until the next attempt."""
        now = self._status
        if now.failing_since is None:
            _log.warning("the journal cannot be shipped, and is kept", extra={"cause": error})
        self._attempts += 1
        self._status = replace(
            now, failures=now.failures + 1, last_error=error, failing_since=now.failing_since or time.time()
        )
        settings = self._settings
        longest_s: float = min(settings.retry_max_s, settings.retry_s * 2.0 ** min(self._attempts - 1, 20))
        return longest_s * random.uniform(0.5, 1.0)

    def _well(self) -> None:
        since = self._status.failing_since
        if since is not None:
            _log.info("the journal is shipped again", extra={"after_s": round(time.time() - since, 1)})
            self._status = replace(self._status, failing_since=None)
            self._attempts = 0

    def _drop_in_time(self) -> None:
        if time.monotonic() >= self._next_drop_s:
            self._next_drop_s = time.monotonic() + min(_DROP_EVERY_S, self._settings.keep_local_s / 2 + 0.2)
            self._drop()

    def _drop(self) -> None:
        if self._lock is None or not self._settings.drop:
            return
        for worker in workers_of(self._journal):
            checkpoint = self._state.checkpoint(worker)
            if checkpoint is not None:
                dropped = self._dropper.drop(worker, checkpoint)
                self._status = replace(self._status, dropped_segments=self._status.dropped_segments + dropped)

    def _tell_in_time(self) -> None:
        if self._lock is not None and time.monotonic() >= self._next_status_s:
            self._next_status_s = time.monotonic() + _STATUS_EVERY_S
            self._state.keep_status(self._note())

    def _note(self) -> ShipperStatus:
        self._status = replace(self._status, updated_at=time.time())
        return with_waiting(self._journal, self._state, self._status)


def with_waiting(journal: Path, state: ShippingState, status: ShipperStatus) -> ShipperStatus:
    """A status with what waits in a journal counted now: by its files, so that any process can."""
    total = count = 0
    oldest_s = 0.0
    try:
        for worker in workers_of(journal):
            checkpoint = state.checkpoint(worker)
            size, segments, first = waiting(journal, worker, checkpoint)
            total, count = total + size, count + segments
            if first:
                here = checkpoint is not None and checkpoint.segment == first
                moment_us = oldest_moment_us(journal, first, checkpoint.offset if here and checkpoint else 0)
                oldest_s = max(oldest_s, 0.0 if moment_us is None else time.time() - moment_us / 1e6)
    except RecordError:  # a segment went meanwhile
        return status
    return replace(status, waiting_bytes=total, waiting_segments=count, oldest_waiting_s=oldest_s)
