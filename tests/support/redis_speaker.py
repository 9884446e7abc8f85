"""A server that speaks the Redis protocol and answers whatever a test wants, for what no real server does."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType

import hiredis

# Given the number of the connection (from 1 on) and the words of a command: the bytes to send, None to end.
Answer = Callable[[int, list[bytes]], bytes | None]


class RedisSpeaker:
    """Listens on loopback; logins and names of clients are taken with +OK, the rest is up to `answer`."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.opened = 0
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.opened += 1
                self._open.add(sock)
                self._threads.append(threading.Thread(target=self._serve, args=(self.opened, sock), daemon=True))
                self._threads[-1].start()

    def _serve(self, number: int, sock: socket.socket) -> None:
        reader = hiredis.Reader(notEnoughData=None)
        with contextlib.suppress(OSError), sock:
            while data := sock.recv(65536):
                reader.feed(data)
                while (words := reader.gets()) is not None:
                    login = words[0] in (b"AUTH", b"SELECT", b"CLIENT")
                    answer = b"+OK\r\n" if login else self._answer(number, words)
                    if answer is None:
                        return
                    sock.sendall(answer)

    def close(self) -> None:
        """Ends everything."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5.0)

    def __enter__(self) -> RedisSpeaker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
