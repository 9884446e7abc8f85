"""Host names to addresses, without ever waiting longer than a deadline.

The system's own look-up takes no time limit and may wait for seconds, so it runs in a thread of its own.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time

from engine.features.store import StoreTimeout, StoreUnavailable
from engine.features.stores.redis_settings import Address

# How long what was found is used without asking again. Later it is used while a new look-up is under way.
FRESH_S = 30.0

_Found = tuple[tuple[socket.AddressFamily, tuple[str, int]], ...]


class Resolver:
    """The addresses of one server."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._changed = threading.Condition()
        self._asking = False
        self._error = ""
        self._asked_s = float("-inf")
        self._found: _Found = ()
        self._literal: _Found = ()
        try:
            version = ipaddress.ip_address(address.host).version
        except ValueError:
            pass
        else:
            family = socket.AF_INET6 if version == 6 else socket.AF_INET
            self._literal = ((family, (address.host, address.port)),)

    def addresses(self, deadline_s: float) -> _Found:
        """(family, socket address) pairs in the order of preference. Raises StoreTimeout, StoreUnavailable."""
        if self._literal:
            return self._literal
        with self._changed:
            if not self._asking and (not self._found or time.monotonic() - self._asked_s > FRESH_S):
                try:
                    threading.Thread(target=self._ask, name="redis-resolver", daemon=True).start()
                except RuntimeError as e:
                    raise StoreUnavailable(f"redis: no thread to look up {self._address.host}") from e
                self._asking = True
            if not self._found:
                self._changed.wait_for(lambda: not self._asking, max(0.0, deadline_s - time.monotonic()))
            if self._found:
                return self._found
            if self._asking:
                raise StoreTimeout(f"redis: the look-up of {self._address.host} took too long")
            raise StoreUnavailable(f"redis: {self._address.host} cannot be looked up: {self._error}")

    def doubt(self) -> None:
        """Nobody answered there: look up again at the next use, as the server may have moved."""
        self._asked_s = float("-inf")

    def _ask(self) -> None:
        found: _Found = ()
        error = ""
        try:
            infos = socket.getaddrinfo(self._address.host, self._address.port, type=socket.SOCK_STREAM)
            found = tuple((family, (str(to[0]), int(to[1]))) for family, _, _, _, to in infos)
        except (OSError, UnicodeError) as e:
            error = (e.strerror if isinstance(e, OSError) else None) or "no such name"
        with self._changed:
            self._asking = False
            self._asked_s = time.monotonic()
            self._error = error
            self._found = found or self._found
            self._changed.notify_all()
