"""Connections to one Redis server. A thread takes one for itself and gives it back, so there are never more than
threads that read or write at once, and a few; those that wait are kept for the next, the last used first.

Connections are opened by threads of the pool's own, a few at once, and go on being opened when the caller's time is
up: else callers in a hurry would begin one handshake after the other, finish none, and bury the server in them.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from engine.errors import StoreError
from engine.features.store import StoreTimeout, StoreUnavailable
from engine.features.stores.notes import notes
from engine.features.stores.redis_connection import Connection
from engine.features.stores.redis_dial import Dialler
from engine.features.stores.redis_protocol import ConnectionLost, Fits, ReplyError, nonsense
from engine.features.stores.redis_settings import Address, RedisSettings

# More than that many are closed instead of kept.
_MAX_IDLE = 64
_MAX_OPENING = 4


class Pool:
    """Connections to the server at `address`. For every thread.

    tls: None for none. on_open: called whenever a connection was opened, as the server behind it may be a new one.
    """

    def __init__(
        self,
        address: Address,
        settings: RedisSettings,
        tls: ssl.SSLContext | None,
        on_open: Callable[[], object] = lambda: None,
    ) -> None:
        self.address = address
        self.where = str(address)
        self._settings = settings
        self._tls = tls
        self._on_open = on_open
        self._closed = False
        # What a fork leaves to the parent.
        self._begin()

    def _begin(self) -> None:
        self._dialler = Dialler(self.address, self._settings, self._tls)
        self._idle: deque[Connection] = deque()
        self._all: set[Connection] = set()
        self._changed = threading.Condition()
        self._waiting = 0
        self._opening = 0
        self._failures = 0
        self._failure: StoreError | None = None

    def forget(self) -> None:
        """Begins anew in a forked child. The parent's connections stay the parent's: here they are only let go of."""
        for connection in self._all:
            connection.close()
        self._begin()

    def ask(self, command: bytes, deadline_s: float, fits: Fits, count: int = 0) -> Any:
        """Sends one command and gives its reply: one that fits, or a refusal as `ReplyError`.

        count: for `fits`. Raises StoreTimeout, StoreUnavailable, StoreCorrupt.
        """
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._open(deadline_s)
        try:
            reply = connection.ask(command, deadline_s)
        except ConnectionLost as e:
            self.drop(connection)
            if connection.used:
                return self.ask_afresh(command, deadline_s, fits, count)
            raise StoreUnavailable(str(e)) from e
        except BaseException:
            self.drop(connection)
            raise
        return self.settle(connection, reply, fits, count)

    def ask_afresh(self, command: bytes, deadline_s: float, fits: Fits, count: int) -> Any:
        """Once more over a new connection, as one that waited had ended meanwhile, and the others with it."""
        self.drop_idle()
        notes.retries += 1
        connection = self.take(deadline_s)
        try:
            reply = connection.ask(command, deadline_s)
        except BaseException as e:
            self.drop(connection)
            if isinstance(e, ConnectionLost):
                raise StoreUnavailable(str(e)) from e
            raise
        return self.settle(connection, reply, fits, count)

    def settle(self, connection: Connection, reply: Any, fits: Fits, count: int) -> Any:
        """Takes a connection back after its only reply, and gives that reply, if it fits or is a `ReplyError`. Else it
        ends the connection and raises StoreCorrupt."""
        if not fits(reply, count) and not isinstance(reply, ReplyError):
            self.drop(connection)
            raise nonsense(reply, self.where)
        connection.used = True
        self.give(connection)
        return reply

    def take(self, deadline_s: float) -> Connection:
        """A connection that no other thread has, idle or new. Give it back or drop it."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._open(deadline_s)

    def take_quiet(self, deadline_s: float) -> Connection:
        """The same, for what should not be sent twice: none that the server is known to have ended."""
        while True:
            connection = self.take(deadline_s)
            if connection.quiet():
                return connection
            if not connection.used:  # TLS says more than it was asked in the beginning
                return connection
            self.drop(connection)

    def give(self, connection: Connection) -> None:
        """Takes back a connection on which no reply is owed."""
        self._idle.append(connection)
        if self._waiting:
            with self._changed:
                self._changed.notify()
        if len(self._idle) > _MAX_IDLE or self._closed:
            self._trim(0 if self._closed else _MAX_IDLE)

    def drop(self, connection: Connection) -> None:
        """Ends a connection that was taken."""
        connection.close()
        self._all.discard(connection)

    def drop_idle(self) -> None:
        """Ends every connection that waits."""
        self._trim(0)

    def renew(self) -> None:
        """Ends every connection that waits, and looks the server's name up again for the next."""
        self.drop_idle()
        self._dialler.doubt()

    def close(self) -> None:
        """Ends what waits, and what is under way as soon as it comes back. Harmless when repeated."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._trim(0)

    def _trim(self, keep: int) -> None:
        with contextlib.suppress(IndexError):
            while len(self._idle) > keep:
                self.drop(self._idle.popleft())

    def _open(self, deadline_s: float) -> Connection:
        """Waits for a new connection, or for one that comes back first."""
        with self._changed:
            failures = self._failures
            self._waiting += 1
            try:
                while True:
                    if self._closed:
                        raise StoreUnavailable("the store is closed")
                    with contextlib.suppress(IndexError):
                        return self._idle.pop()
                    if self._failures != failures:
                        assert self._failure is not None
                        raise type(self._failure)(str(self._failure))
                    left_s = deadline_s - monotonic()
                    if left_s <= 0:
                        raise StoreTimeout(f"redis at {self.where} did not answer in time: no connection yet")
                    if self._opening < min(self._waiting, _MAX_OPENING):
                        try:
                            threading.Thread(target=self._open_some, name="redis-opener", daemon=True).start()
                        except RuntimeError as e:
                            raise StoreUnavailable(f"redis at {self.where}: no thread to connect with") from e
                        self._opening += 1
                    self._changed.wait(left_s)
            finally:
                self._waiting -= 1
                # A thread that was woken when its time was up leaves the connection to the next.
                if self._waiting and self._idle:
                    self._changed.notify()

    def _open_some(self) -> None:
        """Opens connections until nobody waits for one, or until one cannot be opened."""
        while True:
            connection, failure = None, None
            try:
                connection = self._dialler.dial()
                self._on_open()
            except StoreError as e:
                failure = e
            except Exception as e:  # those who wait must hear of it, whatever it is
                failure = StoreUnavailable(f"redis at {self.where}: connecting failed ({type(e).__name__})")
            with self._changed:
                if connection is not None:
                    self._all.add(connection)
                    self._idle.append(connection)
                    self._changed.notify()
                if failure is not None:
                    self._failure = failure
                    self._failures += 1
                    self._changed.notify_all()
                if failure is not None or self._closed or self._waiting < len(self._idle) + self._opening:
                    self._opening -= 1
                    break
        if self._closed:
            self._trim(0)
        _ended.append(threading.get_native_id())


# Numbers that the system gave to threads of ours which have nothing more to do.
_ended: deque[int] = deque(maxlen=64)


def wait_for_ended(limit_s: float = 1.0) -> None:
    """Waits until threads that are ending are gone, where the system shows them.

    A thread that used TLS holds a lock of OpenSSL for a moment while it ends. Whoever is forked then finds it held for
    ever.
    """
    limit_s += monotonic()
    while _ended and monotonic() < limit_s:
        if os.path.exists(f"/proc/self/task/{_ended[-1]}"):
            time.sleep(0.0005)
        else:
            _ended.pop()
