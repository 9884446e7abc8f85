"""A read that is sent a second time, over another connection, when no answer came for a while."""

from __future__ import annotations

import math
import select
import threading
from time import monotonic
from typing import Any

from engine.errors import StoreError
from engine.features.store import StoreTimeout, StoreUnavailable
from engine.features.stores.notes import notes
from engine.features.stores.redis_connection import Connection
from engine.features.stores.redis_pool import Pool
from engine.features.stores.redis_protocol import ConnectionLost, Fits


class Hedge:
    """How hedged reads are received, and how often that was needed.

    sent: reads that were sent a second time; won: those whose second answer came first.
    """

    def __init__(self, after_ms: float) -> None:
        self.after_s = after_ms / 1000
        self.sent = 0
        self.won = 0
        self._counting = threading.Lock()

    def ask(self, pool: Pool, command: bytes, deadline_s: float, fits: Fits, count: int = 0) -> Any:
        """As `Pool.ask`, hedged."""
        hedge_s = monotonic() + self.after_s
        connection = pool.take(deadline_s)
        try:
            connection.send(command, deadline_s)
            [reply], winner = self.receive(pool, connection, command, 1, hedge_s, deadline_s)
        except BaseException as e:
            pool.drop(connection)
            if not isinstance(e, ConnectionLost):
                raise
            if not connection.used:
                raise StoreUnavailable(str(e)) from e
            return pool.ask_afresh(command, deadline_s, fits, count)
        return pool.settle(winner, reply, fits, count)

    def receive(
        self, pool: Pool, first: Connection, commands: bytes, count: int, hedge_s: float, deadline_s: float
    ) -> tuple[list[Any], Connection]:
        """The replies to what was sent over `first`, and the connection that had them first.

        hedge_s: when to send a second time. The other connection is closed, as its answer is still to come; both are
        when it raises, as `Connection.receive` does.
        """
        racing: dict[int, tuple[Connection, list[Any]]] = {first.fileno(): (first, [])}
        second: Connection | None = None
        waiting = select.poll()
        waiting.register(first.fileno(), select.POLLIN)
        try:
            while True:
                now_s = monotonic()
                ready = waiting.poll(max(0.0, min(hedge_s, deadline_s) - now_s) * 1000)
                for number, _ in ready:
                    connection, replies = racing[number]
                    try:
                        connection.read_some()
                        while connection.pending:
                            connection.read_some()
                        connection.take_parsed(count, replies)
                    except ConnectionLost:
                        if len(racing) == 1:
                            raise
                        waiting.unregister(number)
                        del racing[number]
                        pool.drop(connection)
                        continue
                    if len(replies) == count:
                        del racing[number]
                        if connection is second:
                            with self._counting:
                                self.won += 1
                        return replies, connection
                if now_s >= deadline_s:  # with what was there by then looked at
                    raise StoreTimeout(f"redis at {pool.where} did not answer in time")
                if hedge_s <= monotonic() < deadline_s:
                    hedge_s = math.inf  # once
                    second = self._second(pool, commands, deadline_s)
                    if second is not None:
                        racing[second.fileno()] = (second, [])
                        waiting.register(second.fileno(), select.POLLIN)
        finally:
            for connection, _ in racing.values():
                pool.drop(connection)

    def _second(self, pool: Pool, commands: bytes, deadline_s: float) -> Connection | None:
        """Another connection with the same commands under way; None where there is none to be had soon."""
        # Whoever opens one does not look at the first meanwhile.
        now_s = monotonic()
        limit_s = now_s + (deadline_s - now_s) / 2
        connection = None
        try:
            connection = pool.take(limit_s)
            connection.send(commands, limit_s)
        except StoreError:
            if connection is not None:
                pool.drop(connection)
            return None
        with self._counting:
            self.sent += 1
        notes.hedged = True
        return connection
