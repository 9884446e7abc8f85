"""Commands on their way to the server that has their keys, until every one has its answer.

A call holds the keys of one slot. It is sent to the slot's server together with all others for that server; what
comes back may be an answer, or that the slot lies elsewhere by now, that it is being moved, or that a script is
unknown. The loop here deals with all of it inside the deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, NamedTuple, Protocol

from engine.features.store import StoreTimeout, StoreUnavailable
from engine.features.stores.notes import notes
from engine.features.stores.redis_connection import Connection, sleep
from engine.features.stores.redis_hedge import Hedge
from engine.features.stores.redis_pool import Pool
from engine.features.stores.redis_protocol import ConnectionLost, Fits, ReplyError, nonsense, pack, refusal

_ASKING = pack((b"ASKING",))
# How often a call may find its connection ended or its server gone.
_MAX_LOST = 3
_PAUSE_S = 0.002


# Makes a command for items of a batch by their numbers; told to send the whole text of a script, or its digest.
Packer = Callable[[Sequence[int], bool], bytes]


class Call:
    """One command for some items of a batch.

    The reply must be one that can be had piece by piece, as a slot that is being moved answers for single keys alone.
    """

    __slots__ = ("asking", "attempts", "fits", "items", "pack", "pool", "slot", "whole")

    def __init__(self, slot: int, items: Sequence[int], pack: Packer, fits: Fits) -> None:
        self.slot = slot
        self.items = items
        self.pack = pack
        self.fits = fits
        self.whole = False
        self.attempts = 0
        # Where to ask, just this once, while the slot is on its way there.
        self.pool: Pool | None = None
        self.asking = False

    def command(self) -> bytes:
        """What goes over the wire."""
        command = self.pack(self.items, self.whole)
        return _ASKING + command if self.asking else command


class Topology(Protocol):
    """Who serves what."""

    def owner(self, slot: int, deadline_s: float) -> Pool:
        """The server of a slot. Raises StoreTimeout, StoreUnavailable."""

    def moved(self, slot: int, to: str, asked: Pool) -> Pool | None:
        """Another server said that it has the slot now; None where that cannot be."""

    def asked(self, to: str, asked: Pool) -> Pool | None:
        """The server that a slot is being moved to; None where that cannot be."""

    def lost(self, slot: int, pool: Pool, deadline_s: float) -> bool:
        """The server of a slot is not there: whether somebody else has the slot now."""

    def late(self, pool: Pool) -> None:
        """A server did not answer in time."""


def run(
    topology: Topology, calls: Sequence[Call], deadline_s: float, hedge: Hedge | None = None
) -> list[tuple[Call, Any]]:
    """Sends all calls and gives each, or the single calls it was split into, with its reply.

    All are on their way at once: to every server first, then from every server. Raises the first failure that nothing
    can be done about: StoreTimeout, StoreUnavailable, StoreCorrupt. Others may have been carried out then.
    """
    done: list[tuple[Call, Any]] = []
    waiting = list(calls)
    while waiting:
        by_pool: dict[Pool, list[Call]] = {}
        for call in waiting:
            call.attempts += 1
            by_pool.setdefault(call.pool or topology.owner(call.slot, deadline_s), []).append(call)
        waiting, pause = [], False
        for pool, call, reply in _round(topology, by_pool, deadline_s, hedge):
            if isinstance(reply, StoreUnavailable):
                call.pool, call.asking = None, False
                # Who had ended an idle connection is asked again; who is down is asked after.
                again = isinstance(reply, ConnectionLost) or topology.lost(call.slot, pool, deadline_s)
                if call.attempts > _MAX_LOST or not again:
                    raise StoreUnavailable(str(reply)) from reply
                waiting.append(call)
            elif isinstance(reply, ReplyError):
                pieces, in_move = _redirected(topology, pool, call, reply)
                waiting += pieces
                pause = pause or in_move or call.attempts > _MAX_LOST
            else:
                done.append((call, reply))
        if waiting:
            notes.retries += 1
        if pause:
            sleep(_PAUSE_S, deadline_s)
    return done


def _redirected(topology: Topology, pool: Pool, call: Call, reply: ReplyError) -> tuple[list[Call], bool]:
    """What to send instead of a call that was refused, and whether to wait a little first. Raises what it cannot."""
    code, _, told = str(reply).partition(" ")
    if code == "NOSCRIPT" and not call.whole:
        call.whole = True
        return [call], False
    call.pool, call.asking = None, False
    if code == "TRYAGAIN":
        # Some of the keys are here and others there already: each for itself is in one place.
        if len(call.items) == 1:
            return [call], True
        return [Call(call.slot, (item,), call.pack, call.fits) for item in call.items], False
    to = told.partition(" ")[2]
    if code == "MOVED" and topology.moved(call.slot, to, pool):
        return [call], False
    if code == "ASK":
        call.pool = topology.asked(to, pool)
        call.asking = True
        if call.pool is not None:
            return [call], False
    if code == "READONLY":
        # A master that became a replica keeps its connections, while the name it had may be another's by now.
        pool.renew()
    raise refusal(reply, pool.where)


class _Sent(NamedTuple):
    """What is under way to one server."""

    pool: Pool
    connection: Connection
    calls: list[Call]
    commands: bytes


def _round(
    topology: Topology, by_pool: dict[Pool, list[Call]], deadline_s: float, hedge: Hedge | None
) -> list[tuple[Pool, Call, Any]]:
    """Sends to every server, then receives from every server.

    Gives every call with its reply; or with a ConnectionLost when the connection had waited and was ended meanwhile;
    or with another StoreUnavailable when its server is not there. A late server ends it all with a StoreTimeout.
    """
    hedge_s = 0.0 if hedge is None else monotonic() + hedge.after_s
    outcome: list[tuple[Pool, Call, Any]] = []
    sent: list[_Sent] = []
    pool = None
    try:
        for pool, calls in by_pool.items():
            try:
                connection = pool.take_quiet(deadline_s)
            except StoreUnavailable as e:
                outcome += [(pool, call, e) for call in calls]
                continue
            sent.append(_Sent(pool, connection, calls, b"".join(call.command() for call in calls)))
            try:
                connection.send(sent[-1].commands, deadline_s)
            except ConnectionLost as e:
                outcome += _ended(sent.pop(), e)
        while sent:
            pool, connection, calls, commands = sent[-1]
            count = sum(1 + call.asking for call in calls)
            try:
                if hedge is None:
                    replies = connection.receive(count, deadline_s)
                else:
                    replies, connection = hedge.receive(pool, connection, commands, count, hedge_s, deadline_s)
                    sent[-1] = sent[-1]._replace(connection=connection)
            except ConnectionLost as e:
                outcome += _ended(sent.pop(), e)
                continue
            answers = iter(replies)
            for call in calls:
                if call.asking:
                    next(answers)
                reply = next(answers)
                if not isinstance(reply, ReplyError) and not call.fits(reply, len(call.items)):
                    raise nonsense(reply, pool.where)
                outcome.append((pool, call, reply))
            sent.pop()
            connection.used = True
            pool.give(connection)
    except StoreTimeout:
        if pool is not None:
            topology.late(pool)
        raise
    finally:
        for pool, connection, *_ in sent:
            pool.drop(connection)
    return outcome


def _ended(sent: _Sent, e: ConnectionLost) -> list[tuple[Pool, Call, Any]]:
    sent.pool.drop(sent.connection)
    failure: StoreUnavailable = e
    if sent.connection.used:
        sent.pool.drop_idle()
    else:
        failure = StoreUnavailable(str(e))
    return [(sent.pool, call, failure) for call in sent.calls]
