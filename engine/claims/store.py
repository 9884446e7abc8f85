"""Claims shared by all hosts that share a feature store: one row a request id (`engine.claims.row`).

What holds, whatever clocks, leases and networks do: of all decisions under one request id that were settled, every host
gives the same one, for as long as the store keeps the row. What a lease adds is that a second host does not begin while
the first is at work, and may once the first is gone.

When a claim lapses. A host takes another's claim when its own wall clock is `clock_skew_ms` past the moment that the
holder wrote, or when its own monotonic clock has seen the claim for as long as it stands and the skew besides. So
clocks that differ by less than `clock_skew_ms` cost nothing, a holder whose clock is far ahead is waited for no longer
than that, and one whose clock is far behind has its claim taken early: then the request is decided twice, and one of
the two decisions stands.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from engine.claims.row import NO_TOKEN, ClaimRow, Release, Settle, State, Take, forget_answer, key_for, parse
from engine.claims.shared import Answered, Decided, Held, Mine, Taken
from engine.errors import Refusal, StoreError
from engine.features.store import Change, FeatureStore
from engine.record.claims import CLAIMED, Claims

_POLL_S, _POLL_MAX_S, _POLLS = 0.002, 0.05, 40
# A claim's row goes by itself long after it lapsed; one that was given back, soon.
_HELD_TTL_S, _FREE_TTL_S = 600, 60
_COUNTED = ("held", "answered", "lapsed_taken", "superseded", "refused", "unshared", "unsettled", "not_released")


@dataclass(frozen=True, slots=True)
class StoreClaimSettings:
    """on_failure: while the store fails, `refuse` calls, or go on with what this `host` knows, and count it: a request
    sent to two hosts in that time may be decided twice. timeout_ms: the most that taking or settling may take.
    answers_ttl_s: how long a decision is found by other hosts. clock_skew_ms: see the module. answer_bytes_max: beyond
    it, a row names the decision without holding it. watched_max: claims of others that are remembered as seen."""

    on_failure: Literal["refuse", "host"] = "refuse"
    timeout_ms: float = 500.0
    answers_ttl_s: int = 86_400
    clock_skew_ms: float = 2_000.0
    answer_bytes_max: int = 64 << 10
    watched_max: int = 10_000


_HELD = Held()


class _Mine(NamedTuple):
    request_key: bytes
    token: bytes
    until_s: float
    lease_s: float
    payload_digest: bytes


class StoreClaims:
    """See the module. The store stays its owner's: `close` leaves it open."""

    def __init__(
        self,
        store: FeatureStore,
        settings: StoreClaimSettings | None = None,
        *,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """now_us, monotonic_s: this host's clocks."""
        self._store, self._settings = store, settings or StoreClaimSettings()
        self._now_us, self._monotonic_s = now_us, monotonic_s
        self._local = Claims()
        self._mine: dict[bytes, _Mine] = {}
        # Unique among hosts and processes, and cheaper than fresh randomness for each.
        self._process, self._serial = os.urandom(8), itertools.count(1)
        # When a token of another holder was first seen.
        self._seen: OrderedDict[bytes, float] = OrderedDict()
        self._seen_turn = threading.Lock()
        self._counts: Counter[str] = Counter()
        # Told when a decision that is in the journal could not be settled.
        self.on_unsettled: Callable[[], None] | None = None

    def take(self, request_key: bytes, payload_digest: bytes, lease_s: float, deadline_s: float | None = None) -> Taken:
        """See `SharedClaims.take`."""
        (taken,) = self.take_many([(request_key, payload_digest)], lease_s, deadline_s)
        if isinstance(taken, Refusal):
            raise taken
        return taken

    def take_many(
        self, requests: Sequence[tuple[bytes, bytes]], lease_s: float, deadline_s: float | None = None
    ) -> list[Taken | Refusal]:
        """See `SharedClaims.take_many`."""
        found: list[Taken | Refusal] = [_HELD] * len(requests)
        asked: dict[int, _Mine] = {}
        until_s = self._monotonic_s() + lease_s
        for place, (request_key, payload_digest) in enumerate(requests):
            if self._local.take(request_key, payload_digest) is CLAIMED:
                asked[place] = _Mine(request_key, self._token(), until_s, lease_s, payload_digest)
        if not asked:
            self._counts["held"] += len(found)
            return found
        try:
            taken = self._take_each(list(asked.values()), deadline_s)
        except StoreError as error:
            taken = [self._without(mine, error) for mine in asked.values()]
        except BaseException:
            for mine in asked.values():
                self._local.release(mine.request_key)
            raise
        for (place, mine), outcome in zip(asked.items(), taken, strict=True):
            found[place] = outcome
            if isinstance(outcome, Mine):
                self._mine[mine.request_key] = mine
            else:
                self._local.release(mine.request_key)
        self._counts["held"] += sum(isinstance(one, Held) for one in found)
        self._counts["answered"] += sum(isinstance(one, Answered) for one in found)
        return found

    def _take_each(self, asked: Sequence[_Mine], deadline_s: float | None) -> list[Taken | Refusal]:
        rows = self._take(asked, [NO_TOKEN] * len(asked), deadline_s)
        lapsed = [
            place
            for place, (mine, row) in enumerate(zip(asked, rows, strict=True))
            if row.state is State.HELD and row.token != mine.token and self._has_lapsed(row)
        ]
        if lapsed:
            tokens = [rows[place].token for place in lapsed]
            again = self._take([asked[place] for place in lapsed], tokens, deadline_s)
            for place, row in zip(lapsed, again, strict=True):
                rows[place] = row
                self._counts["lapsed_taken"] += row.token == asked[place].token
        return [_taken(mine, row) for mine, row in zip(asked, rows, strict=True)]

    def _take(self, asked: Sequence[_Mine], lapsed: Sequence[bytes], deadline_s: float | None) -> list[ClaimRow]:
        now_us, lease_s = self._now_us(), asked[0].lease_s
        lease_ms = max(1, round(1000 * lease_s))
        changes: list[tuple[bytes, Change]] = [
            (mine.request_key, Take(mine.token, mine.payload_digest, lease_ms, now_us, over))
            for mine, over in zip(asked, lapsed, strict=True)
        ]
        return self._update(changes, _HELD_TTL_S + round(lease_s), self._until_s(deadline_s))

    def _without(self, mine: _Mine, error: StoreError) -> Taken | Refusal:
        """What becomes of a claim that the store did not take, or did not say that it took."""
        if self._settings.on_failure == "refuse":
            self._counts["refused"] += 1
            return self._refusal(error)
        self._counts["unshared"] += 1
        return Mine(is_shared=False)

    def check(self, request_key: bytes, deadline_s: float | None = None) -> Answered | None:
        """See `SharedClaims.check`. A claim that lapsed and that nobody took is taken anew; while somebody else is
        deciding, the first of both to settle is right."""
        mine = self._mine.get(request_key)
        if mine is None or self._monotonic_s() < mine.until_s:
            return None
        again = mine._replace(token=self._token(), until_s=self._monotonic_s() + mine.lease_s)
        try:
            (row,) = self._take([again], [mine.token], deadline_s)
        except StoreError:
            return None  # settling will tell
        if row.token == again.token:
            self._mine[request_key] = again
        return _answered(row) if row.state is State.ANSWERED else None

    def settle(self, decided: Decided, deadline_s: float | None = None) -> Answered | None:
        """See `SharedClaims.settle`."""
        (other,) = self.settle_many([decided], deadline_s)
        if isinstance(other, Refusal):
            raise other
        return other

    def settle_many(self, many: Sequence[Decided], deadline_s: float | None = None) -> list[Answered | Refusal | None]:
        """See `SharedClaims.settle_many`."""
        try:
            return [*self.adopt(many, self._until_s(deadline_s))]
        except StoreError as error:
            self._counts["unsettled"] += len(many)
            if self.on_unsettled is not None:
                self.on_unsettled()
            if self._settings.on_failure == "host":
                return [None] * len(many)
            return [self._refusal(error) for _ in many]
        finally:
            for decided in many:
                if self._mine.pop(decided.request_key, None) is not None:
                    self._local.release(decided.request_key)

    def adopt(self, many: Sequence[Decided], deadline_s: float | None = None) -> list[Answered | None]:
        """Settles decisions that nobody waits for; claims stay as they are. Raises StoreError: make it again."""
        changes: list[tuple[bytes, Change]] = [(one.request_key, self._settled(one)) for one in many]
        rows = self._update(changes, self._settings.answers_ttl_s, deadline_s)
        return [self._other(one, row) for one, row in zip(many, rows, strict=True)]

    def _settled(self, decided: Decided) -> Settle:
        answer = decided.answer if len(decided.answer) <= self._settings.answer_bytes_max else b""
        return Settle(decided.payload_digest, decided.decision_id, answer, self._now_us())

    def _other(self, decided: Decided, row: ClaimRow) -> Answered | None:
        if row.decision_id == decided.decision_id:
            return None
        self._counts["superseded"] += 1
        return _answered(row)

    def release(self, request_key: bytes) -> None:
        """See `SharedClaims.release`. Where the store cannot be told, the claim lapses."""
        mine = self._mine.pop(request_key, None)
        if mine is None:
            return
        try:
            changes = [(key_for(request_key), Release(mine.token, self._now_us()))]
            self._store.update(changes, ttl_s=_FREE_TTL_S, deadline_s=self._until_s(None))
        except StoreError:
            self._counts["not_released"] += 1
        finally:
            self._local.release(request_key)

    def forget(self, request_key: bytes) -> None:
        """Take the answer out of a request's row: who is to be forgotten is not kept there. Which decision stands is
        still known. Raises StoreError."""
        change = forget_answer(self._now_us())
        self._store.update([(key_for(request_key), change)], ttl_s=self._settings.answers_ttl_s)

    def wait(self, request_key: bytes, until_s: float) -> bool:
        """See `SharedClaims.wait`. The store is read more and more seldom, up to 50 ms apart, for 2 s at most."""
        if request_key in self._local:
            return self._local.wait(request_key, max(0.0, until_s - time.monotonic()))
        key, pause_s, first = key_for(request_key), _POLL_S, b""
        for _ in range(_POLLS):
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return False
            time.sleep(min(pause_s * random.uniform(0.5, 1.0), left_s))
            pause_s = min(pause_s * 1.6, _POLL_MAX_S)
            try:
                row = parse(self._store.read([key], self._until_s(until_s))[0])
            except StoreError:
                continue
            if row is None or row.state is not State.HELD or row.token != (first or row.token):
                return True
            if self._has_lapsed(row):
                return True
            first = row.token
        return True

    def counters(self) -> dict[str, int]:
        """held, answered: what was asked for and found so; lapsed_taken: claims of others that lapsed; superseded:
        decisions that another's stood in place of; refused, unshared, unsettled: the store failed on taking (and the
        call was refused, or went on alone) or on settling; not_released: and on giving back."""
        return {name: self._counts[name] for name in _COUNTED}

    def close(self) -> None:
        """See `SharedClaims.close`."""

    def _update(self, changes: Sequence[tuple[bytes, Change]], ttl_s: int, deadline_s: float | None) -> list[ClaimRow]:
        """Changes the rows of requests; gives them as they are then. Raises StoreError."""
        keyed = [(key_for(request_key), change) for request_key, change in changes]
        rows = [parse(value) for value in self._store.update(keyed, ttl_s=ttl_s, deadline_s=deadline_s)]
        if None in rows:
            raise StoreError("the store kept nothing of a claim")
        return [row for row in rows if row is not None]

    def _until_s(self, deadline_s: float | None) -> float:
        limit_s = time.monotonic() + self._settings.timeout_ms / 1000
        return limit_s if deadline_s is None else min(limit_s, deadline_s)

    def _token(self) -> bytes:
        return self._process + next(self._serial).to_bytes(8, "little")

    def _has_lapsed(self, row: ClaimRow) -> bool:
        """Whether another's claim is over; see the module."""
        skew_us = 1000 * self._settings.clock_skew_ms
        if self._now_us() > row.until_us + skew_us:
            return True
        now_s = self._monotonic_s()
        with self._seen_turn:
            first_s = self._seen.setdefault(row.token, now_s)
            if len(self._seen) > self._settings.watched_max:
                self._seen.popitem(last=False)
        return now_s - first_s > row.lease_ms / 1000 + skew_us / 1e6

    def _refusal(self, error: StoreError) -> Refusal:
        refusal = Refusal(
            "STORE_UNAVAILABLE",
            "The store that request ids are shared through failed or was late, so it is not known whether this request "
            "was decided; retry with the same request id.",
            {"store": self._store.name},
        )
        refusal.__cause__ = error
        return refusal


def _taken(mine: _Mine, row: ClaimRow) -> Taken:
    if row.token == mine.token:
        return Mine(until_s=mine.until_s)
    return _answered(row) if row.state is State.ANSWERED else Held(row.payload_digest, row.until_us)


def _answered(row: ClaimRow) -> Answered:
    return Answered(row.decision_id, row.payload_digest, row.answer)
