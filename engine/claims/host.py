"""Claims shared by the worker processes of one host, which share one directory of journals.

A claim is a lock that the kernel keeps for the worker: nobody waits for a lease when a worker is killed, and none is
taken from a worker that merely is slow. What a worker has decided is found by the others at once: it stands in a shared
table before the answer leaves, and stays there until the index of the journals has it. A worker that is killed
between its journal and the table leaves its mark in the table; who finds it looks into the journals first.
"""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from engine.claims.host_locks import KEYS, HostLocks
from engine.claims.host_table import WORKERS_MAX, HostTable, begin, join
from engine.claims.shared import MINE, Answered, Decided, Held, Mine, OneByOne, Taken
from engine.errors import RecordError, Refusal
from engine.record.claims import CLAIMED, Claims
from engine.record.segments import Position

FILE_NAME = "claims"
_POLL_S, _POLL_MAX_S = 0.0005, 0.02
_LOOK, _HELD = Mine(look=True), Held()


class _Mine(NamedTuple):
    """A claim of this process: the request's key in the table, its lock, its cell."""

    key: bytes
    place: int
    cell: int


class HostClaims(OneByOne):
    """See the module. Open it after the last fork and after this worker's own log."""

    def __init__(
        self, directory: Path, catch_up: Callable[[], object], indexed_to: Callable[[], Position | None]
    ) -> None:
        """directory: of the journals. catch_up: brings the index up to all journals. indexed_to: up to where this
        worker's own journal is indexed, None for nowhere.

        Raises RecordError.
        """
        self._indexed_to, self._indexed = indexed_to, Position("", 0)
        self._local = Claims()
        self._mine: dict[bytes, _Mine] = {}
        # Over the cells of this worker; the kernel's locks hold other workers off.
        self._turn = threading.Lock()
        self._counts: Counter[str] = Counter()
        # The latest decision that was forgotten before the index had it.
        self._lost: Position | None = None
        try:
            self._locks = HostLocks(directory / FILE_NAME)
            try:
                self._table = self._open(directory, catch_up)
            except BaseException:
                self._locks.close()
                raise
        except OSError as error:
            raise RecordError(f"the table of claims in {directory} cannot be opened: {error.strerror}") from error
        _forkable.add(self)

    def _open(self, directory: Path, catch_up: Callable[[], object]) -> HostTable:
        locks = self._locks
        locks.enter()
        column, alone = locks.column(WORKERS_MAX)
        if alone:
            begin(locks.fd)
        join(locks.fd, column)
        # The column's last worker may have died a moment ago: what it wrote is in the index before it goes from here.
        catch_up()
        table = HostTable(directory / FILE_NAME, column)
        locks.leave()
        return table

    def take(self, request_key: bytes, payload_digest: bytes, lease_s: float, deadline_s: float | None = None) -> Taken:
        """See `SharedClaims.take`. The claim ends with this process, not with the lease."""
        if self._local.take(request_key, payload_digest) is not CLAIMED:
            self._counts["held"] += 1
            return _HELD
        try:
            outcome = self._take(request_key)
        except BaseException:
            self._local.release(request_key)
            raise
        if outcome is not MINE and not isinstance(outcome, Mine):
            self._local.release(request_key)
            self._counts["held" if isinstance(outcome, Held) else "answered"] += 1
        return outcome

    def _take(self, request_key: bytes) -> Taken:
        key = _key_of(request_key)
        place = _place_of(key)
        try:
            if not self._locks.take(place):
                return _HELD
        except (OSError, ValueError) as error:  # no lock to be had; closed
            raise Refusal("RECORD_FAILED", "The request id cannot be claimed on this host; retry shortly.") from error
        try:
            answered, doubtful = self._table.find(key)
            if answered is not None:
                self._locks.give(place)
                return answered
            with self._turn:
                cell = self._room(key)
        except BaseException:
            self._locks.give(place)
            raise
        if cell is None:
            self._locks.give(place)
            return _HELD
        self._mine[request_key] = _Mine(key, place, cell)
        if not doubtful:
            return MINE
        # Its last holder died; or more was decided at once than the table holds.
        self._counts["looks"] += 1
        return _LOOK

    def _room(self, key: bytes) -> int | None:
        """Hold a cell for a key: an empty one, or else that of a decision that can be forgotten."""
        found = self._table.room(key)
        if found is None:
            return None
        cell, goes = found
        if goes is not None and not self._is_indexed(goes):
            self._lost = max(self._lost or goes, goes)
            self._counts["forgotten_early"] += 1
            self._table.set_lossy(True)
        self._table.hold(cell, key)
        return cell

    def _is_indexed(self, position: Position) -> bool:
        """Whether the index has a decision of this worker. Asked anew only where what it said last is not enough."""
        if position >= self._indexed:
            try:
                self._indexed = max(self._indexed, self._indexed_to() or self._indexed)
            except RecordError:
                return False
        return position < self._indexed

    def check(self, request_key: bytes, deadline_s: float | None = None) -> Answered | None:
        """See `SharedClaims.check`. The kernel's locks do not lapse."""
        return None

    def settle(self, decided: Decided, deadline_s: float | None = None) -> Answered | None:
        """See `SharedClaims.settle`."""
        mine = self._mine.pop(decided.request_key, None)
        if mine is None or decided.position is None:
            if mine is not None:
                self._give(decided.request_key, mine)
            return None
        try:
            with self._turn:
                self._table.answer(mine.cell, mine.key, decided.payload_digest, decided.decision_id, decided.position)
                self._forget_lost()
        finally:
            self._locks.give(mine.place)
            self._local.release(decided.request_key)
        return None

    def settle_many(self, many: Sequence[Decided], deadline_s: float | None = None) -> list[Answered | Refusal | None]:
        """See `SharedClaims.settle_many`. All are in the table before the first of them is given back."""
        held: list[tuple[bytes, _Mine]] = []
        take, answer = self._mine.pop, self._table.answer
        try:
            with self._turn:
                for request_key, digest, decision_id, _, position in many:
                    mine = take(request_key, None)
                    if mine is None:
                        continue
                    held.append((request_key, mine))
                    if position is None:
                        self._table.drop(mine.cell)
                    else:
                        answer(mine.cell, mine.key, digest, decision_id, position)
                self._forget_lost()
        finally:
            give, release = self._locks.give, self._local.release
            for request_key, mine in held:
                give(mine.place)
                release(request_key)
        return [None] * len(many)

    def _forget_lost(self) -> None:
        """Nobody need look any more, once the index has all that was forgotten early. Holds the turn."""
        if self._lost is not None and self._is_indexed(self._lost):
            self._lost = None
            self._table.set_lossy(False)

    def release(self, request_key: bytes) -> None:
        """See `SharedClaims.release`."""
        mine = self._mine.pop(request_key, None)
        if mine is not None:
            self._give(request_key, mine)

    def _give(self, request_key: bytes, mine: _Mine) -> None:
        with self._turn:
            self._table.drop(mine.cell)
        self._locks.give(mine.place)
        self._local.release(request_key)

    def wait(self, request_key: bytes, until_s: float) -> bool:
        """See `SharedClaims.wait`. A thread of this process is told; other processes are looked at, more and more
        seldom, up to 20 ms apart."""
        left_s = until_s - time.monotonic()
        if request_key in self._local:
            return self._local.wait(request_key, max(0.0, left_s))
        place, pause_s = _place_of(_key_of(request_key)), _POLL_S
        while left_s > 0:
            if self._locks.is_free(place):
                return True
            time.sleep(min(pause_s * random.uniform(0.5, 1.0), left_s))
            pause_s = min(pause_s * 1.5, _POLL_MAX_S)
            left_s = until_s - time.monotonic()
        return False

    def counters(self) -> dict[str, int]:
        """held: asked for while another had it; answered: found in the table; looks: taken from a worker that died, or
        from a full table; forgotten_early: room was made before the index knew."""
        return {name: self._counts[name] for name in ("held", "answered", "looks", "forgotten_early")}

    def close(self) -> None:
        """See `SharedClaims.close`. What is held is held no longer."""
        if self._locks.fd >= 0:
            self._table.close()
            self._locks.close()


_hash = hashlib.blake2b(digest_size=16)


def _key_of(request_key: bytes) -> bytes:
    # A copy is made faster than another.
    content = _hash.copy()
    content.update(request_key)
    return content.digest()


def _place_of(key: bytes) -> int:
    return int.from_bytes(key[:8], "little") % KEYS


_forkable: weakref.WeakSet[HostClaims] = weakref.WeakSet()


def _after_fork() -> None:
    # A child that kept the file open would keep the parent's locks after the parent's death.
    for claims in list(_forkable):
        claims._locks.close()


os.register_at_fork(after_in_child=_after_fork)
