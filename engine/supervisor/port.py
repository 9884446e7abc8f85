"""The port that all workers share: found free, and kept, by the supervisor, which listens on nothing itself."""

from __future__ import annotations

import socket
from contextlib import suppress

from engine.errors import ConfigError, Problem


class Port:
    """Holds an address for the workers of one supervisor. A socket that is bound and does not listen takes no
    connections away from them."""

    def __init__(self, address: str, shared: bool) -> None:
        """address: host:port, port 0 for any that is free. shared: others may have it as well (`server.reuse_port`).
        Raises ConfigError for one that cannot be used."""
        host, _, port = address.rpartition(":")
        self._held: list[socket.socket] = []
        try:
            found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            self.number = int(port)
            for family, _, _, _, where in dict.fromkeys(found):
                self._hold(family, str(where[0]), shared)
        except OSError as error:
            self.close()
            fix = "Another program may hold the port: choose another address, or end it."
            message = f"cannot listen on {address!r} ({error.strerror})"
            raise ConfigError([Problem("settings", "server.address", message, fix)]) from error
        self.address = f"{host}:{self.number}"

    def _hold(self, family: int, host: str, shared: bool) -> None:
        if not shared and self.number:
            # With the option that shares ports this would go well beside another server of the same user.
            alone = socket.socket(family, socket.SOCK_STREAM)
            try:
                self._bind(alone, family, host)
            finally:
                alone.close()
        held = socket.socket(family, socket.SOCK_STREAM)
        self._held.append(held)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._bind(held, family, host)
        self.number = held.getsockname()[1]

    def _bind(self, one: socket.socket, family: int, host: str) -> None:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind((host, self.number))

    def close(self) -> None:
        """Lets it go. Harmless when repeated."""
        for held in self._held:
            with suppress(OSError):
                held.close()
        self._held.clear()
