"""What both Redis stores do with rows alike: write, change, delete, scan."""

from __future__ import annotations

import random
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from time import monotonic
from typing import Final

from engine.features.store import Change, WriteResult, check_event_time, entity_prefix
from engine.features.stores.redis_base import RedisBase
from engine.features.stores.redis_connection import sleep
from engine.features.stores.redis_protocol import ReplyError, is_number, is_outcomes, is_page, pack, refusal
from engine.features.stores.redis_scripts import SWAP, WRITE, pack_keys, pack_script

_BATCH = 1000
_MAX_TTL_S = 100 * 366 * 86_400
_SPECIAL: Final = re.compile(rb"[*?\[\]\\^-]")


class RedisRows(RedisBase):
    """Rows as plain Redis values under their keys, a set of the views' names, and a hash of schemas.

    Commands used, for an ACL: AUTH, CLIENT SETNAME, SELECT, PING, MGET, GET, GETRANGE, SET, UNLINK, EVAL, EVALSHA,
    SADD, SMEMBERS, HSET, HGET, HGETALL, SCAN; in a cluster also CLUSTER SLOTS and ASKING. Keys: `{*`, `assay:*`.
    """

    @abstractmethod
    def read(self, keys: Sequence[bytes], deadline_s: float | None = None) -> list[bytes | None]:
        """As the protocol says."""

    def write(self, rows: Iterable[tuple[bytes, bytes, int]], *, ttl_s: int | None = None) -> WriteResult:
        """As the protocol says, up to 1,000 rows in one round trip."""
        self._check_open()
        head = _ttl(ttl_s)
        written = total = 0
        todo = iter(rows)
        while batch := list(islice(todo, _BATCH)):
            for _, value, event_time_us in batch:
                check_event_time(value, event_time_us)
            keys = [row[0] for row in batch]
            packer = partial(pack_script, WRITE, keys, [row[1:2] for row in batch], head)
            done = self._run(keys, packer, is_number, monotonic() + self._write_s, announce=True)
            written += sum(count for _, count in done)
            total += len(batch)
        return WriteResult(written, total - written)

    def update(
        self, changes: Sequence[tuple[bytes, Change]], *, ttl_s: int | None = None, deadline_s: float | None = None
    ) -> list[bytes | None]:
        """As the protocol says: read, change, and put in place where nobody was faster; else again with what is there
        now. Up to 1,000 changes are made together."""
        self._check_open()
        head = _ttl(ttl_s)
        outcome: list[bytes | None] = [None] * len(changes)
        for start in range(0, len(changes), _BATCH):
            until_s = monotonic() + self._write_s if deadline_s is None else deadline_s
            todo: Sequence[int] = range(start, min(start + _BATCH, len(changes)))
            keys = list(dict.fromkeys(changes[i][0] for i in todo))
            held = dict(zip(keys, self.read(keys, until_s), strict=True))
            attempt = 0
            while todo:
                values = dict(held)
                for i in todo:
                    key, change = changes[i]
                    new = change(values[key])
                    if new is not None:
                        values[key] = new
                    outcome[i] = values[key]
                missed = self._swap(values, held, head, until_s)
                todo = [i for i in todo if changes[i][0] in missed]
                if todo and attempt:
                    # Somebody else was faster, twice.
                    sleep(random.random() * 0.001 * min(attempt, 10), until_s)
                attempt += 1
        return outcome

    def _swap(
        self, values: dict[bytes, bytes | None], held: dict[bytes, bytes | None], head: bytes, deadline_s: float
    ) -> set[bytes]:
        """Puts values in place where what was held is still there. Gives the keys where it is not, and leaves in
        `held` what is."""
        swaps = [(key, held[key], new) for key, new in values.items() if new is not None and new != held[key]]
        missed: set[bytes] = set()
        if not swaps:
            return missed
        keys = [key for key, _, _ in swaps]
        arguments = [(b"0", b"", new) if old is None else (b"1", old, new) for _, old, new in swaps]
        packer = partial(pack_script, SWAP, keys, arguments, head)
        for call, outcomes in self._run(keys, packer, is_outcomes, deadline_s, announce=True):
            for i, found in zip(call.items, outcomes, strict=True):
                if found != 1:
                    held[keys[i]] = found
                    missed.add(keys[i])
        return missed

    def delete(self, keys: Sequence[bytes]) -> int:
        """As the protocol says."""
        self._check_open()
        gone = 0
        for start in range(0, len(keys), _BATCH):
            some = keys[start : start + _BATCH]
            done = self._run(some, partial(pack_keys, b"UNLINK", some), is_number, monotonic() + self._write_s)
            gone += sum(count for _, count in done)
        return gone

    def delete_entity(self, entity: str, entity_id: str) -> int:
        """As the protocol says: every view that was ever written, of whatever entity, is tried."""
        prefix = entity_prefix(entity, entity_id)
        return self.delete([prefix + view for view in self._views()])

    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """As the protocol says, in no order. Remembers every key it gave, some 150 bytes each."""
        # Only rows have keys that start with a brace.
        match = _SPECIAL.sub(rb"\\\g<0>", prefix or b"{") + b"*"
        seen: set[bytes] = set()
        self._check_open()
        for pool in self._masters(monotonic() + self._write_s):
            cursor = b"0"
            while True:
                self._check_open()
                command = pack((b"SCAN", cursor, b"MATCH", match, b"COUNT", b"1000"))
                reply = pool.ask(command, monotonic() + self._write_s, is_page)
                if isinstance(reply, ReplyError):
                    raise refusal(reply, pool.where)
                cursor = reply[0]
                keys = [key for key in dict.fromkeys(reply[1]) if key not in seen and key.startswith(prefix)]
                seen.update(keys)
                for key, value in zip(keys, self.read(keys, monotonic() + self._write_s), strict=True):
                    if value is not None:
                        yield key, value
                if cursor == b"0":
                    break


def _ttl(ttl_s: int | None) -> bytes:
    if ttl_s is None:
        return b""
    if ttl_s <= 0:
        raise ValueError("rows that are to live for no time need not be written")
    return b"%d" % min(ttl_s, _MAX_TTL_S)
