"""What the supervisor and a worker say to each other: JSON objects over a socket that keeps messages whole.

    to the worker       start, serve, lead, rest, publish, even, retire, stop, ping
    to the supervisor   loaded, serving, leads, rests, published, left, failed, pong

The end of the socket says that the other side is gone, however it went.
"""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

_MESSAGE_BYTES_MAX = 128 * 1024
_SEND_WAIT_S = 5.0


class Channel:
    """One end. Threads may send at once; one may receive."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._turn = threading.Lock()

    @classmethod
    def pair(cls) -> tuple[Channel, socket.socket]:
        """This process's end, and the socket to hand to a child."""
        own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        own.settimeout(_SEND_WAIT_S)
        return cls(own), other

    def fileno(self) -> int:
        """For selectors."""
        return self._link.fileno()

    def send(self, say: str, **facts: Any) -> bool:
        """Says something. False when nobody listens any more."""
        message = json.dumps({"say": say, **facts}).encode()
        with self._turn:
            try:
                self._link.send(message[:_MESSAGE_BYTES_MAX])
            except OSError:
                return False
        return True

    def receive(self) -> dict[str, Any] | None:
        """What the other side said, waiting for it; None when it is gone."""
        try:
            content = self._link.recv(_MESSAGE_BYTES_MAX)
        except OSError:
            return None
        if not content:
            return None
        said: dict[str, Any] = json.loads(content)
        return said

    def close(self) -> None:
        """Harmless when repeated."""
        self._link.close()
