"""The gate: every call asks here, when it arrives and when its turn has come.

Two measures decide whether there is room. As long as the server keeps up, up to `burst_max` calls may be in it at once:
a burst, or callers who each wait for their answer, is worked off and nobody is refused. Once more than that are there,
calls come faster than they are answered, and waiting would only make all of them late: the server is *pressed*, and
takes no more than the limit that finds its level (`limit`), until hardly any call had to be refused for a while.

Batches are shed first: they are taken only while less than `batch_share` of the room is used; once one had to be
refused, of the limit, for a while, so that a crowd of them does not stand before single decisions. Reads and writes
around the decisions have a share of their own, so that neither decisions push them out nor they the decisions.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from engine.admission.limit import GradientLimit, LimitSettings
from engine.admission.quota import Quotas, QuotaSettings

Lane = Literal["interactive", "batch", "other"]
Why = Literal["limit", "batch_share", "other_share", "quota", "deadline", "deadline_queue"]
LANES: tuple[Lane, ...] = ("interactive", "batch", "other")
WHYS: tuple[Why, ...] = ("limit", "batch_share", "other_share", "quota", "deadline", "deadline_queue")

# How long refusals are counted for: the share of those refused, which says whether the server is pressed still, and how
# long a caller is told to wait.
_COUNT_S = 1.0
# Of the calls; under it the press is over.
_PRESSED_SHARE = 0.03
_DELAY_MOST_S = 30.0
# Of the least that any call took: who has less time left than this cannot be answered.
_HASTE = 0.8
# How often a message that waits for room asks again.
_ASK_AGAIN_S = 0.002


@dataclass(frozen=True, slots=True)
class GateSettings:
    """burst_max: calls in the server at once before it counts as pressed. batch_share, other_share: of the room, see
    above. retry_s: what a refused call is told to wait at least, before it is spread. calm_s: how long next to nothing
    must have been refused until the server is not pressed any more."""

    limit: LimitSettings = field(default_factory=LimitSettings)
    quota: QuotaSettings = field(default_factory=QuotaSettings)
    burst_max: int = 256
    batch_share: float = 0.5
    other_share: float = 0.5
    retry_s: float = 0.2
    calm_s: float = 2.0


class Refused(NamedTuple):
    """Why a call is refused, and after how many seconds to try again; None where another try does not help."""

    why: Why
    retry_s: float | None


class Ticket:
    """One call that was taken, from its arrival to its end. `answered` is set by whoever answers it."""

    __slots__ = ("ahead", "answered", "arrived_s", "gate", "lane", "late", "number", "refused", "tenant")

    def __init__(self, gate: Gate, lane: Lane, tenant: str, arrived_s: float, ahead: int, number: int) -> None:
        self.gate, self.lane, self.tenant, self.arrived_s, self.ahead = gate, lane, tenant, arrived_s, ahead
        self.number = number
        self.answered = self.late = False
        self.refused: Refused | None = None

    def can_wait(self, left_s: float) -> bool:
        """Whether a call that has just come can be answered in the time left, with those that are before it. What it
        is refused for otherwise is in `refused`."""
        gate = self.gate
        if left_s <= gate.limit.quickest_s * _HASTE:
            return self._refuse(Refused("deadline", None))
        if self.ahead and left_s < gate.place_s * self.ahead:
            return self._refuse(Refused("deadline_queue", gate.retry_after_s()))
        return True

    def can_begin(self, left_s: float) -> bool:
        """Whether a call whose turn has come can be answered in the time left; else see `refused`."""
        if left_s > self.gate.limit.quickest_s * _HASTE:
            return True
        # Whether it would have been in time had it not waited: then too many were let in.
        self.late = left_s + self.gate.age_s(self) > self.gate.limit.quickest_s
        return self._refuse(Refused("deadline", None))

    def _refuse(self, refused: Refused) -> bool:
        self.refused = refused
        self.gate.count(self.lane, refused.why)
        return False

    def charge(self, items: int) -> Refused | None:
        """Takes the rest of a batch's decisions out of the tenant's quota; one was taken when it arrived."""
        return self.gate.charge(self, items - 1) if items > 1 else None

    def done(self) -> None:
        """The call has ended, however it did. Once."""
        self.gate.leave(self)


class Gate:
    """Who is taken. Threads may use it at once. clock: seconds, only rising. chance: from 0 to 1."""

    def __init__(
        self, settings: GateSettings, clock: Callable[[], float], chance: Callable[[], float] = random.random
    ) -> None:
        self._settings, self._clock, self._chance = settings, clock, chance
        now_s = clock()
        self.limit = GradientLimit(settings.limit, now_s)
        self.quotas = Quotas(settings.quota)
        self._has_quotas = self.quotas.any
        self._lock = threading.Lock()
        self._in = dict.fromkeys(LANES, 0)
        self._all = self._taken = 0
        self.pressed = False
        self.place_s = 0.0
        self._turn_at_s, self._calm_at_s = now_s + _COUNT_S, now_s
        self._crowded_until_s = now_s
        self._offered = self._refused = 0
        self._share = 0.0
        self._refusals = {(lane, why): 0 for lane in LANES for why in WHYS}
        self._quota_refused: dict[str, int] = {}
        self._room = 0
        self._measure_room()

    @property
    def in_flight(self) -> dict[Lane, int]:
        """Calls that were taken and have not ended."""
        return dict(self._in)

    @property
    def refusals(self) -> dict[tuple[Lane, Why], int]:
        """Calls refused so far."""
        return dict(self._refusals)

    @property
    def quota_refused(self) -> dict[str, int]:
        """Calls refused for their tenant's quota so far, by `Quotas.word_of`."""
        return dict(self._quota_refused)

    @property
    def room(self) -> int:
        """How many calls may be in the server at this moment."""
        return self._room

    def _measure_room(self) -> None:
        self._room = self.limit.now if self.pressed else max(self._settings.burst_max, self.limit.level)

    def arrive(self, lane: Lane, tenant: str = "", decisions: int = 1) -> Ticket | Refused:
        """A call has come. decisions: that it asks for, as far as that is known yet; 0 for other calls."""
        now_s = self._clock()
        with self._lock:
            ahead = self._all
            if lane == "interactive" and ahead < self._room and not self._has_quotas and now_s < self._turn_at_s:
                # The usual call, which the rest would take as well.
                self._offered += 1
                self._in["interactive"] += 1
                self._all = ahead + 1
                number = self._taken = self._taken + 1
                return Ticket(self, lane, tenant, now_s, ahead, number)
            found = self._judge(lane, tenant, decisions, now_s)
            if isinstance(found, Refused):
                self._note(lane, tenant, found)
            return found

    def enter(self, lane: Lane, tenant: str, patience_s: float, left_s: float | None = None) -> Ticket | Refused:
        """A message of a stream has come, which may wait for room: its sender is held back meanwhile. Not to be
        called where other calls wait for this thread. left_s: the caller's own deadline."""
        until_s = self._clock() + (patience_s if left_s is None else min(patience_s, left_s))
        while True:
            with self._lock:
                found = self._judge(lane, tenant, 1, self._clock())
                if isinstance(found, Ticket):
                    return found
                wait_s = max(_ASK_AGAIN_S, found.retry_s / 2 if found.why == "quota" and found.retry_s else 0.0)
                if self._clock() + wait_s >= until_s:
                    self._note(lane, tenant, found)
                    return found
            time.sleep(wait_s)

    def try_enter(self, lane: Lane, tenant: str) -> Ticket | None:
        """`enter` for a message that may stay where it is: None when there is no room now; that is no refusal."""
        with self._lock:
            found = self._judge(lane, tenant, 1, self._clock())
            return found if isinstance(found, Ticket) else None

    def _judge(self, lane: Lane, tenant: str, decisions: int, now_s: float) -> Ticket | Refused:
        has_quota = decisions and self._has_quotas
        if has_quota and (wait_s := self.quotas.take(tenant, decisions, now_s)):
            return self._over_quota(wait_s)
        why = self._no_room(lane, now_s)
        if why is not None:
            if has_quota:
                self.quotas.give_back(tenant, decisions)
            return Refused(why, self.retry_after_s())
        ahead = self._all
        self._in[lane] += 1
        self._all = ahead + 1
        self._taken += 1
        return Ticket(self, lane, tenant, now_s, ahead, self._taken)

    def _no_room(self, lane: Lane, now_s: float) -> Why | None:
        if now_s >= self._turn_at_s:
            self._turn(now_s)
        room, all_ = self._room, self._all
        if lane == "other":
            return None if self._in["other"] < max(1.0, room * self._settings.other_share) else "other_share"
        if lane == "batch":
            if now_s < self._crowded_until_s:
                room = min(room, self.limit.level)
            # One alone is let in by any server that is not full: a small room has no half.
            if all_ < max(1.0, room * self._settings.batch_share) and not (self.pressed and self.limit.probing):
                return None
            self._crowded_until_s = now_s + self._settings.calm_s
            return "batch_share"
        self._offered += 1
        if all_ < room:
            return None
        if not self.pressed:
            self.pressed, self._calm_at_s = True, now_s
        self._refused += 1
        self.limit.was_full()
        self.limit.refresh(now_s)
        self._room = self.limit.now
        return "limit"

    def _note(self, lane: Lane, tenant: str, refused: Refused) -> None:
        self._refusals[lane, refused.why] += 1
        if refused.why == "quota":
            word = self.quotas.word_of(tenant)
            self._quota_refused[word] = self._quota_refused.get(word, 0) + 1

    def _turn(self, now_s: float) -> None:
        """A second is over."""
        self._share = self._refused / self._offered if self._offered else 0.0
        if self._share > _PRESSED_SHARE:
            self._calm_at_s = now_s
        elif self.pressed and now_s - self._calm_at_s >= self._settings.calm_s:
            self.pressed = False
        self._offered = self._refused = 0
        self._turn_at_s = now_s + _COUNT_S
        self._measure_room()

    def _over_quota(self, wait_s: float) -> Refused:
        return Refused("quota", min(_DELAY_MOST_S, max(wait_s, self._settings.retry_s / 4) * (1 + self._chance())))

    def retry_after_s(self) -> float:
        """How long a caller should wait who found no room: longer the more are refused, and spread, so that those
        refused together do not come back together."""
        offered = self._offered
        share = max(self._share, self._refused / offered) if offered else self._share
        base_s = self._settings.retry_s / max(0.02, 1 - share)
        return min(_DELAY_MOST_S, base_s * (0.5 + self._chance()))

    def charge(self, ticket: Ticket, decisions: int) -> Refused | None:
        """Takes more decisions for a call that is in already."""
        with self._lock:
            wait_s = self.quotas.take(ticket.tenant, decisions, self._clock()) if self._has_quotas else 0.0
            if not wait_s:
                return None
            found = self._over_quota(wait_s)
            self._note(ticket.lane, ticket.tenant, found)
            return found

    def count(self, lane: Lane, why: Why) -> None:
        """A call that was taken is refused after all."""
        with self._lock:
            self._refusals[lane, why] += 1

    def age_s(self, ticket: Ticket) -> float:
        """How long ago a call came."""
        return self._clock() - ticket.arrived_s

    def leave(self, ticket: Ticket) -> None:
        """A call has ended."""
        now_s, lane, ahead = self._clock(), ticket.lane, ticket.ahead
        with self._lock:
            self._in[lane] -= 1
            self._all -= 1
            if lane != "interactive":
                return
            if ticket.answered:
                arrived_s, held_s = ticket.arrived_s, self.place_s
                # Near the quicker ones: who is refused by it must be sure not to be in time.
                gain_s = (now_s - arrived_s) / (ahead + 1) - held_s
                self.place_s = held_s + (gain_s * (0.3 if gain_s < 0 else 0.05) if held_s else gain_s)
                # One that nobody came before nor after: a group's first has the others after it.
                alone = ahead == 0 and ticket.number == self._taken
                self.limit.answered(arrived_s, now_s, ahead, alone)
            elif ticket.late:
                self.limit.failed(now_s)
            if self.pressed:
                self._room = self.limit.now
