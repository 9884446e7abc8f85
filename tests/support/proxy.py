"""A TCP proxy that behaves badly when it is told to, also towards connections that are open.

    with Proxy(server.port) as proxy:                   # listens on proxy.port
        store_at(proxy.address)
        proxy.slow(30)                                  # every answer comes 30 ms late
        proxy.trickle(8, every_ms=1)                    # answers come in crumbs
        proxy.silent()                                  # takes everything, passes on nothing, answers nothing
        proxy.refuse()                                  # nobody listens; what is open is closed
        proxy.reset()                                   # an answer breaks off with RST after its first half
        proxy.cut()                                     # ... with an orderly end
        proxy.garbage()                                 # answers are random bytes
        proxy.flip(0.001)                               # this share of an answer's bytes has one bit turned
        proxy.well()                                    # as if it were not there

Two threads for each connection and one that listens; all end with `close`. `opened` counts connections ever taken,
`open` those of now.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType

from tests.support.redis_servers import free_port

_HOST = "127.0.0.1"
_RST = struct.pack("ii", 1, 0)
# What becomes of an answer: the pieces to send, each after a pause in seconds; None ends the connection after the
# pieces before it, with RST where `_Mode.rst` says so.
_Piece = tuple[float, bytes | None]


class _Mode:
    """What is done to answers; requests are passed on unless `silent`."""

    def __init__(self, answer: Callable[[bytes], list[_Piece]], *, silent: bool = False, rst: bool = False) -> None:
        self.answer, self.silent, self.rst = answer, silent, rst


def _half(data: bytes) -> list[_Piece]:
    return [(0.0, data[: len(data) // 2]), (0.0, None)]


class Proxy:
    """A proxy on a loopback port of its own to another one. seed: of what is random."""

    def __init__(self, target_port: int, *, seed: int = 7) -> None:
        self._target_port = target_port
        self._random = random.Random(seed)
        self.port = free_port()
        self.opened = 0
        self._mode = _Mode(lambda data: [(0.0, data)])
        self._lock = threading.Lock()
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._threads: list[threading.Thread] = []
        self._closed = threading.Event()
        self._aborted: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self._accepting: threading.Thread | None = None
        self._listen()

    @property
    def address(self) -> str:
        """Where it listens, as host:port."""
        return f"{_HOST}:{self.port}"

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return len(self._pairs)

    def well(self) -> None:
        """Passes everything on."""
        self._set(_Mode(lambda data: [(0.0, data)]))

    def slow(self, delay_ms: float) -> None:
        """Passes answers on after a while."""
        self._set(_Mode(lambda data: [(delay_ms / 1000, data)]))

    def trickle(self, size: int = 1, every_ms: float = 1.0) -> None:
        """Passes answers on in pieces of `size` bytes."""
        self._set(_Mode(lambda data: [(every_ms / 1000, data[i : i + size]) for i in range(0, len(data), size)]))

    def silent(self) -> None:
        """Takes connections and requests, and that is all. What was asked meanwhile is never passed on."""
        self._set(_Mode(lambda data: [], silent=True))

    def refuse(self) -> None:
        """Listens no more and ends what is open."""
        with self._lock:
            listener, self._listener, accepting = self._listener, None, self._accepting
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            assert accepting is not None
            accepting.join(10.0)
        self.drop()

    def drop(self) -> None:
        """Ends what is open, with RST, and goes on as before."""
        with self._lock:
            clients = list(self._pairs)
        for client in clients:
            self._abort(client)

    def reset(self) -> None:
        """Breaks every answer off in its middle with RST."""
        self._set(_Mode(_half, rst=True))

    def cut(self) -> None:
        """Ends every answer in its middle."""
        self._set(_Mode(_half))

    def garbage(self) -> None:
        """Answers with as many random bytes."""
        self._set(_Mode(lambda data: [(0.0, self._random.randbytes(len(data)))]))

    def flip(self, share: float = 0.001, *, least_bytes: int = 64) -> None:
        """Turns one bit in this share of an answer's bytes, and in one at least where it is longer than `least_bytes`,
        so that what is short (a greeting, a ping) passes."""

        def answer(data: bytes) -> list[_Piece]:
            spoilt = bytearray(data)
            if len(spoilt) > least_bytes:
                for _ in range(max(1, round(len(spoilt) * share))):
                    spoilt[self._random.randrange(len(spoilt))] ^= 1 << self._random.randrange(8)
            return [(0.0, bytes(spoilt))]

        self._set(_Mode(answer))

    def change(self, answer: Callable[[bytes], bytes]) -> None:
        """Answers with what a function makes of each piece of an answer."""
        self._set(_Mode(lambda data: [(0.0, answer(data))]))

    def close(self) -> None:
        """Ends everything. Harmless when repeated."""
        self._closed.set()
        self.refuse()
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(10.0)
            assert not thread.is_alive(), "a thread of the proxy did not end"

    def _set(self, mode: _Mode) -> None:
        self._mode = mode
        if self._listener is None and not self._closed.is_set():
            self._listen()

    def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((_HOST, self.port))
        listener.listen(128)
        self._listener = listener
        self._accepting = self._start(self._accept, listener)

    def _start(self, target: Callable[..., None], *args: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=args, name="proxy", daemon=True)
        with self._lock:
            self._threads = [t for t in self._threads if t.is_alive()]
            self._threads.append(thread)
            thread.start()
        return thread

    def _accept(self, listener: socket.socket) -> None:
        with listener, contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                if self._listener is not listener:
                    client.close()
                    return
                self.opened += 1
                try:
                    server = socket.create_connection((_HOST, self._target_port), 5.0)
                except OSError:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
                    client.close()
                    continue
                for end in (client, server):
                    end.settimeout(None)
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._pairs[client] = server
                self._start(self._serve, client, server)

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        """Requests are passed on here, answers in a second thread. Both sockets are closed here alone."""
        answers = self._start(self._answer, client, server)
        with contextlib.suppress(OSError):
            while data := client.recv(65_536):
                if not self._mode.silent:
                    server.sendall(data)
        for end in (server,) if client in self._aborted else (server, client):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        answers.join()
        with self._lock:
            del self._pairs[client]
            self._aborted.discard(client)
        client.close()
        server.close()

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while (data := server.recv(65_536)) and self._pass_on(client, data, self._mode):
                pass
        if client not in self._aborted:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def _pass_on(self, client: socket.socket, data: bytes, mode: _Mode) -> bool:
        """False when the connection is over."""
        for pause_s, piece in mode.answer(data):
            if self._closed.wait(pause_s):
                return False
            if piece is None:
                if mode.rst:
                    self._abort(client)
                return False
            client.sendall(piece)
        return True

    def _abort(self, client: socket.socket) -> None:
        """Has a connection end with RST: no end is sent before it is closed, and what closing sends is a reset."""
        self._aborted.add(client)
        with contextlib.suppress(OSError):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
            client.shutdown(socket.SHUT_RD)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
