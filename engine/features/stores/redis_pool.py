"""Connections to one Redis server. A thread takes one for itself and gives it back, so there are never more than
threads that are reading or writing at once; those that wait are kept for the next, the last used first.
"""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from engine.errors import StoreError
from engine.features.store import StoreTimeout, StoreUnavailable
from engine.features.stores.redis_connection import Connection
from engine.features.stores.redis_protocol import ConnectionLost, ReplyError, code_of, pack, refusal
from engine.features.stores.redis_resolver import Resolver
from engine.features.stores.redis_settings import Address, RedisSettings

# More than that many are closed instead of kept.
_MAX_IDLE = 64
# Idle connections that a firewall forgot are found out about: seconds until the first probe, between probes, and how
# many may go unanswered.
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))


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
        self._login = _login(settings)
        self._closed = False
        self._resolver = Resolver(address)
        self._idle: deque[Connection] = deque()
        self._all: set[Connection] = set()

    def forget(self) -> None:
        """Begins anew in a forked child. The parent's connections stay the parent's: here they are only let go of."""
        for connection in self._all:
            connection.close()
        self._idle, self._all = deque(), set()
        self._resolver = Resolver(self.address)

    def ask(self, command: bytes, deadline_s: float) -> Any:
        """Sends one command and gives its reply. Raises StoreTimeout, StoreUnavailable, StoreCorrupt."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self.open(deadline_s)
        try:
            reply = connection.ask(command, deadline_s)
        except ConnectionLost as e:
            self.drop(connection)
            if connection.used:
                return self.ask_afresh(command, deadline_s)
            raise StoreUnavailable(str(e)) from e
        except BaseException:
            self.drop(connection)
            raise
        connection.used = True
        self.give(connection)
        return reply

    def ask_afresh(self, command: bytes, deadline_s: float) -> Any:
        """Once more over a new connection, as one that waited had ended meanwhile, and the others with it."""
        self.drop_idle()
        connection = self.open(deadline_s)
        try:
            reply = connection.ask(command, deadline_s)
        except BaseException as e:
            self.drop(connection)
            if isinstance(e, ConnectionLost):
                raise StoreUnavailable(str(e)) from e
            raise
        connection.used = True
        self.give(connection)
        return reply

    def take(self, deadline_s: float) -> Connection:
        """A connection that no other thread has, idle or new. Give it back or drop it."""
        try:
            return self._idle.pop()
        except IndexError:
            return self.open(deadline_s)

    def give(self, connection: Connection) -> None:
        """Takes back a connection on which no reply is owed."""
        self._idle.append(connection)
        if len(self._idle) > _MAX_IDLE or self._closed:
            self._trim(0 if self._closed else _MAX_IDLE)

    def drop(self, connection: Connection) -> None:
        """Ends a connection that was taken."""
        connection.close()
        self._all.discard(connection)

    def drop_idle(self) -> None:
        """Ends every connection that waits."""
        self._trim(0)

    def close(self) -> None:
        """Ends what waits, and what is under way as soon as it comes back. Harmless when repeated."""
        self._closed = True
        self._trim(0)

    def _trim(self, keep: int) -> None:
        with contextlib.suppress(IndexError):
            while len(self._idle) > keep:
                self.drop(self._idle.popleft())

    def open(self, deadline_s: float) -> Connection:
        """A new connection, logged in. Raises StoreTimeout, StoreUnavailable."""
        if self._closed:
            raise StoreUnavailable("the store is closed")
        connect_s = self._settings.connect_timeout_ms / 1000
        limit_s = min(deadline_s, monotonic() + connect_s)
        try:
            sock = self._dial(limit_s)
            try:
                connection = Connection(sock, self.where)
                self._log_in(connection, limit_s)
            except BaseException:
                sock.close()
                raise
        except StoreTimeout as e:
            if limit_s < deadline_s:
                raise StoreUnavailable(f"redis at {self.where}: no connection within {connect_s:g} s") from e
            raise
        except ConnectionLost as e:
            raise StoreUnavailable(str(e)) from e
        self._all.add(connection)
        self._on_open()
        return connection

    def _dial(self, limit_s: float) -> socket.socket:
        if self.address.path:
            return self._connect(socket.AF_UNIX, self.address.path, limit_s)
        found = self._resolver.addresses(limit_s)
        failure: StoreError | None = None
        for i, (family, to) in enumerate(found):
            # One address that swallows everything must not cost the others their time.
            share_s = (limit_s - monotonic()) / (len(found) - i)
            try:
                return self._connect(family, to, monotonic() + share_s)
            except StoreError as e:
                failure = e
        self._resolver.doubt()
        assert failure is not None
        raise failure

    def _connect(self, family: socket.AddressFamily, to: Any, limit_s: float) -> socket.socket:
        sock = None
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.settimeout(_left(limit_s))
            sock.connect(to)
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for name, value in _KEEPALIVE:
                    if hasattr(socket, name):
                        sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
            if self._tls is not None:
                sock.settimeout(_left(limit_s))
                sock = self._tls.wrap_socket(sock, server_hostname=self.address.host)
            return sock
        except BaseException as e:
            if sock is not None:
                sock.close()
            if isinstance(e, TimeoutError):
                raise StoreTimeout(f"redis at {self.where} let nobody connect in time") from e
            if isinstance(e, ssl.SSLCertVerificationError):
                raise StoreUnavailable(f"redis at {self.where}: its certificate is refused: {e.verify_message}") from e
            if isinstance(e, OSError):
                cause = (e.reason if isinstance(e, ssl.SSLError) else e.strerror) or type(e).__name__
                raise StoreUnavailable(f"redis at {self.where} cannot be reached: {cause}") from e
            if isinstance(e, ValueError):  # of TLS, for a host that can be no name in a certificate
                raise StoreUnavailable(f"redis at {self.where} cannot be reached: no name of a host") from e
            raise

    def _log_in(self, connection: Connection, limit_s: float) -> None:
        connection.send(b"".join(pack(words) for words in self._login), limit_s)
        for words, reply in zip(self._login, connection.receive(len(self._login), limit_s), strict=True):
            if not isinstance(reply, ReplyError) and reply == b"OK":
                continue
            # A name is only for those who look at the server; the rights to set it may be lacking.
            if words[0] == b"CLIENT" and isinstance(reply, ReplyError) and code_of(reply) == "NOPERM":
                continue
            raise refusal(reply, self.where) if isinstance(reply, ReplyError) else connection.nonsense()


def _login(settings: RedisSettings) -> list[tuple[bytes, ...]]:
    """What a new connection says first; at least one command, so that a refusal to serve shows at once."""
    words: list[tuple[bytes, ...]] = []
    if settings.password:
        who = (settings.user.encode(),) if settings.user else ()
        words.append((b"AUTH", *who, settings.password.encode()))
    if settings.db:
        words.append((b"SELECT", b"%d" % settings.db))
    words.append((b"CLIENT", b"SETNAME", settings.client_name.encode()))
    return words


def _left(limit_s: float) -> float:
    # Zero would mean "do not wait" to a socket, and something else again to a handshake.
    left_s = limit_s - monotonic()
    if left_s <= 0 or math.isnan(left_s):
        raise TimeoutError
    return left_s
