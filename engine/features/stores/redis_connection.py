"""One lean connection to a Redis server: a socket and hiredis' parser, for one thread at a time.

A reply belongs to the command that was sent when nothing else was owed; so a connection that was late, broke off or
spoke nonsense is never used again, and its owner closes it whenever a call of it raises.

The quick path makes two system calls for a command, and lets go of the interpreter lock no oftener: `send`, and a
blocking `recv` under SO_RCVTIMEO. The kernel's time-outs are whole ticks long, so the one set here is the shortest
there is, and what is left of the time then is waited for exactly, with poll(). A call that has less time than the
shortest time-out may take polls from the start.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from functools import cache
from time import monotonic
from typing import Any

from engine.features.store import StoreCorrupt, StoreTimeout
from engine.features.stores.redis_protocol import PARTIAL, ConnectionLost, ProtocolError, new_reader

_CHUNK = 65536
# Redis holds no value longer than half of this.
_MAX_UNPARSED_BYTES = 1 << 30
_SHORTEST = struct.pack("ll", 0, 1)
_MARGIN_S = 0.0005


@cache
def shortest_wait_s() -> float:
    """How long the kernel's shortest time-out of a socket may really last: two of its ticks or so. Measured once."""
    lasted_s: list[float] = []
    here, there = socket.socketpair()
    with here, there:
        here.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _SHORTEST)
        for _ in range(5):
            begin_s = monotonic()
            with contextlib.suppress(BlockingIOError):
                here.recv(1)
            lasted_s.append(monotonic() - begin_s)
    # Not the longest: a machine that stood still just then would have every read poll from then on.
    return sorted(lasted_s)[2] + _MARGIN_S


class Connection:
    """A connected and logged-in socket.

    Every method raises StoreTimeout when the deadline passed, ConnectionLost when the server ended the connection,
    and StoreCorrupt for bytes that are no reply.
    """

    __slots__ = (
        "_feed",
        "_gets",
        "_has_data",
        "_quick_s",
        "_reader",
        "_recv",
        "_send",
        "_sock",
        "_tls",
        "used",
        "where",
    )

    def __init__(self, sock: socket.socket, where: str) -> None:
        """sock: connected. where: the server's address, for the texts of errors."""
        self.where = where
        # Whether it has answered a command since it was made: if not, its end is no matter of age.
        self.used = False
        self._sock = sock
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._reader = new_reader()
        self._feed = self._reader.feed
        self._gets = self._reader.gets
        self._has_data = self._reader.has_data
        self._send: Callable[[bytes], int] = sock.send
        self._recv: Callable[[int], bytes] = sock.recv
        if self._tls:
            sock.settimeout(0.0)
            self._quick_s = math.inf
        else:
            sock.settimeout(None)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _SHORTEST)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SHORTEST)
            self._quick_s = shortest_wait_s()

    def ask(self, command: bytes, deadline_s: float) -> Any:
        """Sends one command and gives its reply; a refusal is given as a `ReplyError`."""
        sent = 0
        try:
            if deadline_s - monotonic() > self._quick_s:
                sent = self._send(command)
                if sent == len(command):
                    chunk = self._recv(_CHUNK)
                    if not chunk:
                        raise self._lost()
                    self._feed(chunk)
                    reply = self._gets()
                    if reply is not PARTIAL:
                        if self._has_data():
                            raise self.nonsense()
                        return reply
        except BlockingIOError:
            pass
        except OSError as e:
            raise self._lost() from e
        except (ProtocolError, MemoryError) as e:
            raise self.nonsense() from e
        if sent < len(command):
            self.send(memoryview(command)[sent:], deadline_s)
            return self.receive(1, deadline_s)[0]
        replies: list[Any] = []
        self._finish(1, replies, deadline_s)
        return replies[0]

    def send(self, data: bytes | memoryview, deadline_s: float) -> None:
        """Sends whole commands. As many replies are owed from then on."""
        rest = memoryview(data)
        while rest:
            try:
                # Every attempt looks at the time: a server that takes one byte a second must not hold it up.
                if monotonic() >= deadline_s:
                    raise self._late()
                rest = rest[self._sock.send(rest) if self._tls else self._sock.send(rest, socket.MSG_DONTWAIT) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._wait(select.POLLOUT, deadline_s)
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN, deadline_s)
            except OSError as e:
                raise self._lost() from e

    def receive(self, count: int, deadline_s: float) -> list[Any]:
        """The next `count` replies, no more of which may be owed."""
        replies: list[Any] = []
        if deadline_s - monotonic() > self._quick_s:
            try:
                self._take_in(self._recv(_CHUNK))
            except BlockingIOError:
                pass
            except OSError as e:
                raise self._lost() from e
        self._finish(count, replies, deadline_s)
        return replies

    def _finish(self, count: int, replies: list[Any], deadline_s: float) -> None:
        self.take_parsed(count, replies)
        while len(replies) < count:
            # What is there by the deadline counts, also when this thread was not let run until later; but only once,
            # as a server that goes on sending must not hold it up.
            late = monotonic() >= deadline_s
            if not self.pending:
                self._wait(select.POLLIN, deadline_s)
            self.read_some()
            self.take_parsed(count, replies)
            if late and len(replies) < count:
                raise self._late()

    @property
    def pending(self) -> bool:
        """Whether bytes wait where poll() does not see them."""
        return isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0

    def read_some(self) -> None:
        """Takes in what has arrived, without waiting."""
        try:
            chunk = self._sock.recv(_CHUNK) if self._tls else self._sock.recv(_CHUNK, socket.MSG_DONTWAIT)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError as e:
            raise self._lost() from e
        self._take_in(chunk)

    def _take_in(self, chunk: bytes) -> None:
        if not chunk:
            raise self._lost()
        try:
            self._feed(chunk)
        except (ProtocolError, MemoryError) as e:
            raise self.nonsense() from e
        if self._reader.len() > _MAX_UNPARSED_BYTES:
            raise self.nonsense()

    def take_parsed(self, count: int, replies: list[Any]) -> None:
        """Moves whole replies over until there are `count`; no byte may come after the last one."""
        try:
            while len(replies) < count:
                reply = self._gets()
                if reply is PARTIAL:
                    return
                replies.append(reply)
        except (ProtocolError, MemoryError) as e:
            raise self.nonsense() from e
        if self._has_data():
            raise self.nonsense()

    def quiet(self) -> bool:
        """Whether nothing has arrived that nobody asked for: the server's goodbye, for one."""
        return not self.pending and not _arrived(self._sock.fileno())

    def fileno(self) -> int:
        """The socket's number, for poll()."""
        return self._sock.fileno()

    def close(self) -> None:
        """Ends the connection. Harmless when repeated."""
        self._sock.close()

    def _wait(self, event: int, deadline_s: float) -> None:
        waiting = select.poll()
        waiting.register(self._sock.fileno(), event)
        while True:
            left_s = deadline_s - monotonic()
            if waiting.poll(max(0.0, left_s) * 1000):
                return
            if left_s <= 0:
                raise self._late()

    def _late(self) -> StoreTimeout:
        return StoreTimeout(f"redis at {self.where} did not answer in time")

    def _lost(self) -> ConnectionLost:
        return ConnectionLost(f"redis at {self.where} ended the connection")

    def nonsense(self) -> StoreCorrupt:
        """The error to raise for bytes that are no answer."""
        return StoreCorrupt(f"redis at {self.where} gave bytes that are no answer")


def _arrived(number: int) -> bool:
    looking = select.poll()
    looking.register(number, select.POLLIN)
    return bool(looking.poll(0))


def sleep(seconds: float, deadline_s: float) -> None:
    """Waits before another attempt, not beyond the deadline."""
    time.sleep(max(0.0, min(seconds, deadline_s - monotonic())))
