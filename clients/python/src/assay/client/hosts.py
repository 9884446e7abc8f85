"""The hosts of a client: whose turn it is, and who is left out for a while.

gRPC's own round_robin cannot be told "not that host again", which is what a retry and a hedge are about, and it keeps
a host that takes calls and answers none. So each host has channels of its own, and this file has the turn. Within one
channel gRPC's round_robin and health checking do the same for the addresses that a name resolves to (channels.py).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Trouble(Enum):
    """What an attempt says of its host."""

    GONE = "gone"  # no connection, draining, cannot work: one is enough
    SLOW = "slow"  # no answer in time, or later than the hedge's: several in a row


@dataclass(frozen=True)
class Ejection:
    """When a host is left out.

    slow_max: so many late answers in a row, one that fails is enough. base_s, out_max_s: out for base_s, and twice as
    long each time that it fails again at once; a quarter of it is random, so that callers do not come back together.
    """

    slow_max: int = 3
    base_s: float = 0.5
    out_max_s: float = 30.0


class Host:
    """One address. lanes: its connections, each with its stubs. slow: late answers in a row; times_out: how often it
    was left out since it last answered; out_until_s: monotonic, left out until then; probing: one call is to say
    whether it is back."""

    __slots__ = ("_turn", "address", "lanes", "out_until_s", "probing", "slow", "times_out")

    def __init__(self, address: str, lanes: Sequence[Any]) -> None:
        self.address, self.lanes = address, tuple(lanes)
        self._turn = itertools.count()
        self.slow = self.times_out = 0
        self.out_until_s, self.probing = 0.0, False

    def lane(self) -> Any:
        """The connection whose turn it is."""
        return self.lanes[next(self._turn) % len(self.lanes)]


class Hosts:
    """All hosts of a client. Fields are written without a lock: each write is one step, and one that is lost between
    two threads costs an attempt at most."""

    def __init__(self, hosts: Sequence[Host], ejection: Ejection) -> None:
        if not hosts:
            raise ValueError("a client needs the address of one host at least")
        self.all = tuple(hosts)
        self._ejection = ejection
        # Clients that start together do not begin with the same host.
        self._turn = itertools.count(random.randrange(len(hosts)))

    def pick(self, now_s: float, tried: Collection[Host] = ()) -> Host:
        """The host whose turn it is, among those that are in and not tried; then among those that are in; when all
        are out, the one that comes back first: a client with nobody left asks all the same."""
        inside = [host for host in self.all if host.out_until_s <= now_s]
        fresh = [host for host in inside if host not in tried] if tried else inside
        if not (fresh or inside):
            return min(self.all, key=lambda host: (host in tried, host.out_until_s))
        among = fresh or inside
        # A second attempt takes nobody's turn, or it would put the next call where it has just been itself.
        host = random.choice(among) if tried else among[next(self._turn) % len(among)]
        if host.times_out:
            # It comes back with one call, which says whether others may follow.
            host.out_until_s, host.probing = now_s + self._ejection.base_s, True
        return host

    def has_other(self, now_s: float, tried: Collection[Host]) -> bool:
        """Whether there is a host in that was not tried."""
        return any(host.out_until_s <= now_s and host not in tried for host in self.all)

    def good(self, host: Host) -> None:
        """It answered."""
        if host.slow or host.times_out:
            host.slow = host.times_out = 0
            host.out_until_s, host.probing = 0.0, False

    def bad(self, host: Host, trouble: Trouble, now_s: float) -> None:
        """It did not."""
        if trouble is Trouble.SLOW:
            host.slow += 1
            if host.slow < self._ejection.slow_max and not host.times_out:
                return
        elif host.out_until_s > now_s and not host.probing:
            # Calls that were under way when it went say the same thing once more.
            return
        host.slow, host.times_out = 0, min(host.times_out + 1, 30)
        out_s = min(self._ejection.out_max_s, self._ejection.base_s * 2.0 ** (host.times_out - 1))
        host.out_until_s, host.probing = now_s + out_s * random.uniform(0.75, 1.0), False
