"""Making a connection to a Redis server: name, socket, TLS, login."""

from __future__ import annotations

import socket
import ssl
from time import monotonic
from typing import Any

from engine.errors import StoreError
from engine.features.store import StoreTimeout, StoreUnavailable
from engine.features.stores.redis_connection import Connection
from engine.features.stores.redis_protocol import ConnectionLost, ReplyError, code_of, pack, refusal
from engine.features.stores.redis_resolver import Resolver
from engine.features.stores.redis_settings import Address, RedisSettings

# Idle connections that a firewall forgot are found out about: seconds until the first probe, between probes, and how
# many may go unanswered.
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))


class Dialler:
    """Makes connections to one server. tls: None for none."""

    def __init__(self, address: Address, settings: RedisSettings, tls: ssl.SSLContext | None) -> None:
        self._address = address
        self._where = str(address)
        self._tls = tls
        self._connect_s = settings.connect_timeout_ms / 1000
        self._login = _login(settings)
        self._resolver = Resolver(address)

    def dial(self) -> Connection:
        """A new connection, logged in. Raises StoreUnavailable, StoreCorrupt."""
        limit_s = monotonic() + self._connect_s
        try:
            sock = self._reach(limit_s)
            try:
                connection = Connection(sock, self._where)
                self._log_in(connection, limit_s)
            except BaseException:
                sock.close()
                raise
            return connection
        except StoreTimeout as e:
            raise StoreUnavailable(f"redis at {self._where}: no connection within {self._connect_s:g} s") from e
        except ConnectionLost as e:
            raise StoreUnavailable(str(e)) from e

    def doubt(self) -> None:
        """The server may be at another address by now."""
        self._resolver.doubt()

    def _reach(self, limit_s: float) -> socket.socket:
        if self._address.path:
            return self._connect(socket.AF_UNIX, self._address.path, limit_s)
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
                sock = self._tls.wrap_socket(sock, server_hostname=self._address.host)
            return sock
        except BaseException as e:
            if sock is not None:
                sock.close()
            if isinstance(e, TimeoutError):
                raise StoreTimeout(f"redis at {self._where} let nobody connect in time") from e
            if isinstance(e, ssl.SSLCertVerificationError):
                refused = f"its certificate is refused: {e.verify_message}"
                raise StoreUnavailable(f"redis at {self._where}: {refused}") from e
            if isinstance(e, OSError):
                cause = (e.reason if isinstance(e, ssl.SSLError) else e.strerror) or type(e).__name__
                raise StoreUnavailable(f"redis at {self._where} cannot be reached: {cause}") from e
            if isinstance(e, ValueError):  # of TLS, for a host that can be no name in a certificate
                raise StoreUnavailable(f"redis at {self._where} cannot be reached: no name of a host") from e
            raise

    def _log_in(self, connection: Connection, limit_s: float) -> None:
        connection.send(b"".join(pack(words) for words in self._login), limit_s)
        for words, reply in zip(self._login, connection.receive(len(self._login), limit_s), strict=True):
            if not isinstance(reply, ReplyError) and reply == b"OK":
                continue
            # A name is only for those who look at the server; the rights to set it may be lacking.
            if words[0] == b"CLIENT" and isinstance(reply, ReplyError) and code_of(reply) == "NOPERM":
                continue
            raise refusal(reply, self._where) if isinstance(reply, ReplyError) else connection.nonsense()


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
    if left_s <= 0:
        raise TimeoutError
    return left_s
