"""What a Redis store stands on: sending commands to whoever has their keys, the set of views, the hash of schemas."""

from __future__ import annotations

import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from time import monotonic
from typing import Any, Final

from engine.features.row_schema import view_of
from engine.features.store import StoreUnavailable
from engine.features.stores.redis_calls import Call, Packer, Topology, run
from engine.features.stores.redis_hedge import Hedge
from engine.features.stores.redis_pool import Pool, wait_for_ended
from engine.features.stores.redis_protocol import (
    Fits,
    ReplyError,
    is_number,
    is_pairs,
    is_pong,
    is_text,
    is_texts,
    pack,
    refusal,
)
from engine.features.stores.redis_settings import RedisSettings, tls_context

# Every view name that was ever written, so that all rows of an entity can be named without looking at all keys.
VIEWS_KEY: Final = b"assay:views"
SCHEMAS_KEY: Final = b"assay:schemas"

# Rows for one call of a script: while it runs, nothing else does, so it must be short.
_SCRIPT_ROWS = 100
# How long a view is taken to be in the set of views without saying it again: somebody may have emptied the server.
_ANNOUNCED_S = 10.0


class RedisBase(ABC):
    """Commands, views and schemas. Nothing is opened before the first use."""

    def __init__(self, settings: RedisSettings) -> None:
        """Raises StoreUnavailable for files of TLS that cannot be used."""
        self._settings = settings
        self._tls = tls_context(settings)
        self._read_s = settings.read_timeout_ms / 1000
        self._write_s = settings.write_timeout_ms / 1000
        self._hedge = None if settings.hedge_after_ms is None else Hedge(settings.hedge_after_ms)
        self._closed = False
        # Until when each view need not be announced again.
        self._announced: dict[bytes, float] = {}

    # What a topology adds.

    @property
    @abstractmethod
    def _topology(self) -> Topology:
        """Who serves what."""

    @abstractmethod
    def _grouped(self, keys: Sequence[bytes], most: int) -> Iterator[tuple[int, list[int]]]:
        """The numbers of the keys by slot, at most `most` together."""

    @abstractmethod
    def _masters(self, deadline_s: float) -> list[Pool]:
        """Every server that has rows."""

    @abstractmethod
    def _close(self) -> None:
        """Ends all connections that wait, and the others as soon as they come back."""

    @abstractmethod
    def _forget(self) -> None:
        """Lets go of all connections in a forked child."""

    # What is the same for all.

    @property
    def hedges_sent(self) -> int:
        """How many reads were sent a second time."""
        return 0 if self._hedge is None else self._hedge.sent

    @property
    def hedges_won(self) -> int:
        """How many of them were answered by the second connection first."""
        return 0 if self._hedge is None else self._hedge.won

    def put_schema(self, fingerprint: bytes, canonical: bytes) -> None:
        """As the protocol says."""
        self._administer(SCHEMAS_KEY, (b"HSET", SCHEMAS_KEY, fingerprint, canonical), is_number)

    def get_schema(self, fingerprint: bytes) -> bytes | None:
        """As the protocol says."""
        canonical: bytes | None = self._administer(SCHEMAS_KEY, (b"HGET", SCHEMAS_KEY, fingerprint), is_text)
        return canonical

    def schemas(self) -> Iterator[tuple[bytes, bytes]]:
        """As the protocol says."""
        reply = self._administer(SCHEMAS_KEY, (b"HGETALL", SCHEMAS_KEY), is_pairs)
        return iter(list(zip(reply[::2], reply[1::2], strict=True)))

    def ping(self) -> None:
        """As the protocol says: every server with rows must answer."""
        self._check_open()
        deadline_s = monotonic() + self._write_s
        for pool in self._masters(deadline_s):
            reply = pool.ask(pack((b"PING",)), deadline_s, is_pong)
            if isinstance(reply, ReplyError):
                raise refusal(reply, pool.where)

    def close(self) -> None:
        """As the protocol says. What is under way ends by its own deadline."""
        self._closed = True
        self._close()

    def _run(
        self, keys: Sequence[bytes], packer: Packer, fits: Fits, deadline_s: float, *, announce: bool = False
    ) -> list[tuple[Call, Any]]:
        """Sends commands for all keys, grouped as the topology needs it, and gives every call with its reply.

        announce: rows may come into being, so that their views must be known.
        """
        views = {key.rpartition(b"}")[2] for key in keys} if announce else set()
        self._announce(views, deadline_s)
        calls = [Call(slot, items, packer, fits) for slot, items in self._grouped(keys, _SCRIPT_ROWS)]
        done = run(self._topology, calls, deadline_s)
        # Again where a connection had to be made anew meanwhile: the server behind it may have begun empty.
        self._announce(views, deadline_s)
        return done

    def _announce(self, views: Iterable[bytes], deadline_s: float) -> None:
        """Puts views into the set of all views, unless this process did so a moment ago."""
        now_s = monotonic()
        announced = self._announced
        new = [view for view in views if announced.get(view, 0.0) < now_s]
        if new:
            self._administer(VIEWS_KEY, (b"SADD", VIEWS_KEY, *new), is_number, deadline_s, count=len(new))
            self._announced.update(dict.fromkeys(new, now_s + _ANNOUNCED_S))

    def _announce_anew(self) -> None:
        """A connection was opened, perhaps to a server that knows of nothing."""
        self._announced = dict.fromkeys(list(self._announced), 0.0)

    def _views(self) -> set[bytes]:
        """The names of all views that may have rows: those noted, and those whose schemas are kept, for a server that
        lost its notes."""
        kept = {name.encode() for _, canonical in self.schemas() if (name := view_of(canonical))}
        return {*self._administer(VIEWS_KEY, (b"SMEMBERS", VIEWS_KEY), is_texts), *self._announced, *kept}

    def _administer(
        self, key: bytes, words: tuple[bytes, ...], fits: Fits, deadline_s: float | None = None, *, count: int = 1
    ) -> Any:
        """One command on one key of ours, and its reply. count: for `fits`."""
        self._check_open()
        until_s = monotonic() + self._write_s if deadline_s is None else deadline_s
        [(slot, items)] = self._grouped([key], 1)
        call = Call(slot, items, lambda items, whole: pack(words), lambda reply, _: fits(reply, count))
        [(_, reply)] = run(self._topology, [call], until_s)
        return reply

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")

    def _made(self) -> None:
        """The last act of making a store: from now on a fork finds it whole."""
        _forkable.add(self)

    def _after_fork(self) -> None:
        self._forget()
        if self._hedge is not None:
            self._hedge = Hedge(self._hedge.after_s * 1000)


_forkable: weakref.WeakSet[RedisBase] = weakref.WeakSet()


def _after_fork() -> None:
    # A child must not use its parent's connections, nor wait for locks that the parent's other threads held.
    for store in list(_forkable):
        store._after_fork()


os.register_at_fork(before=wait_for_ended, after_in_child=_after_fork)
