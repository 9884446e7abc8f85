"""Atomic changes of rows in Cassandra: lightweight transactions, repeated until they fit what is there."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence

from engine.errors import StoreError
from engine.features.store import Change, StoreTimeout, parse_key
from engine.features.stores.cassandra_driver import Call, Rows, Statement
from engine.features.stores.cassandra_link import CassandraLink

_KEY = "entity = ? AND entity_id = ? AND view_name = ?"
STATEMENTS = {
    "state": Statement(f"SELECT value, revision FROM feature_rows WHERE {_KEY}"),
    "state_agreed": Statement(f"SELECT value, revision FROM feature_rows WHERE {_KEY}", serial=True),
    # No value is empty. Naming it in the condition makes a refusal bring it along, so that it need not be read again.
    "change": Statement(
        f"UPDATE feature_rows USING TTL ? SET value = ?, revision = ? WHERE {_KEY} IF revision = ? AND value != 0x",
        idempotent=False,
    ),
    "delete": Statement(f"DELETE FROM feature_rows WHERE {_KEY} IF EXISTS", idempotent=False),
}
# The most that Cassandra takes: 20 years.
_TTL_S_MAX = 20 * 365 * 86_400
_WAIT_S, _WAIT_S_MAX = 0.002, 0.1

# What a row holds: value and revision, None and None where there is no row.
_Held = tuple[bytes | None, int | None]
_ABSENT: _Held = (None, None)


class Changer:
    """Changes and deletes rows, each atomically, whoever else does at the same time."""

    def __init__(self, link: CassandraLink) -> None:
        self._link = link

    def update(
        self, changes: Sequence[tuple[bytes, Change]], ttl_s: int | None, deadline_s: float
    ) -> list[bytes | None]:
        """As `FeatureStore.update`. All keys at once, those of one entity one after the other."""
        found: list[bytes | None] = [None] * len(changes)
        keys = list(dict.fromkeys(key for key, _ in changes))
        held = dict(zip(keys, self._read("state", keys, deadline_s), strict=True))
        ttl = 0 if ttl_s is None else max(1, min(ttl_s, _TTL_S_MAX))
        pending = set(keys)
        attempt = 0
        while pending:
            wanted = _apply(changes, pending, held, found)
            pending = set(wanted)
            turn = one_per_partition(wanted)
            revisions = [_revision() for _ in turn]
            calls = [
                Call("change", (ttl, wanted[key], revision, *parse_key(key), held[key][1]))
                for key, revision in zip(turn, revisions, strict=True)
            ]
            answers = self._link.each(calls, deadline_s, what="write")
            unknown: list[tuple[bytes, int]] = []
            beaten = False
            for key, revision, answer in zip(turn, revisions, answers, strict=True):
                if isinstance(answer, StoreTimeout):
                    unknown.append((key, revision))
                elif isinstance(answer, StoreError):
                    raise answer
                elif answer[0][0]:
                    pending.discard(key)
                else:
                    # A call that the driver sent twice is refused the second time: what is there is what it wrote.
                    held[key] = _refused(answer)
                    if held[key][1] == revision:
                        pending.discard(key)
                    else:
                        beaten = True
            agreed = self._read("state_agreed", [key for key, _ in unknown], deadline_s)
            for (key, revision), state in zip(unknown, agreed, strict=True):
                held[key] = state
                if state[1] == revision:
                    pending.discard(key)
            if beaten or unknown:
                attempt += 1
                _pause(attempt, deadline_s)
        return found

    def delete(self, keys: Iterable[bytes], deadline_s: float) -> int:
        """Remove rows. Gives how many there were."""
        pending = dict.fromkeys(keys)
        unknown: set[bytes] = set()
        count = attempt = 0
        while pending:
            turn = one_per_partition(pending)
            answers = self._link.each([Call("delete", parse_key(key)) for key in turn], deadline_s, what="delete")
            for key, answer in zip(turn, answers, strict=True):
                if isinstance(answer, StoreTimeout):
                    unknown.add(key)
                    continue
                if isinstance(answer, StoreError):
                    raise answer
                del pending[key]
                # What is gone after a call whose outcome was not known was taken away by that call.
                count += bool(answer[0][0]) or key in unknown
            if unknown & pending.keys():
                attempt += 1
                _pause(attempt, deadline_s)
        return count

    def _read(self, name: str, keys: Sequence[bytes], deadline_s: float) -> list[_Held]:
        if not keys:
            return []
        answers = self._link.all([Call(name, parse_key(key)) for key in keys], deadline_s)
        return [(rows[0][0], rows[0][1]) if rows else _ABSENT for rows in answers]


def one_per_partition(keys: Iterable[bytes]) -> list[bytes]:
    """The first key of each entity: changes of one partition at the same time only stand in one another's way."""
    return list({key[: key.rindex(b"}")]: key for key in reversed(list(keys))}.values())


def _apply(
    changes: Sequence[tuple[bytes, Change]], pending: set[bytes], held: dict[bytes, _Held], found: list[bytes | None]
) -> dict[bytes, bytes]:
    """Make all changes of the pending keys in their order, on what is held. Fills `found` and gives the new values."""
    now = {key: held[key][0] for key in pending}
    wanted: dict[bytes, bytes] = {}
    for place, (key, change) in enumerate(changes):
        if key in pending:
            new = change(now[key])
            if new is not None:
                now[key] = wanted[key] = new
            found[place] = now[key]
    return wanted


def _refused(answer: Rows) -> _Held:
    """What is there instead, from the answer to a change that did not fit: applied, revision, value."""
    row = answer[0]
    return (row[2], row[1]) if len(row) > 1 else _ABSENT


def _revision() -> int:
    """Random, so that it is never that of another change."""
    return random.getrandbits(62) + 1


def _pause(attempt: int, deadline_s: float) -> None:
    """Wait a little, for others to be done; longer each time, and never as long as they do."""
    longest_s = min(_WAIT_S_MAX, _WAIT_S * 2 ** min(attempt, 10))
    time.sleep(max(0.0, min(random.uniform(0, longest_s), deadline_s - time.monotonic())))
