"""Four ways to defraud a lender at application, as campaigns of events with the signs that they leave.

ring: an organiser sends several recruited or invented identities in, from a few devices, phones, addresses and one
network, at times through an agent who looks away. stolen: a thief applies in the name of real people whose data are
right, with a device, phone and e-mail of the thief's own. synthetic: invented people with thin files, grown patiently
around a shared address. bust_out: a real person who means not to pay, applying again and again for rising amounts on
an inflated income.

What a fraud does not give away stays as an honest person's would be; see `difficulty.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from models.training.fraud.difficulty import Difficulty
from models.training.fraud.population import DAY_SECONDS, Agents, Ids

LEGITIMATE = 0
FRAUD_TYPES = ("ring", "stolen", "synthetic", "bust_out")  # the kind of an event is 1 + the place here
SHARES = (0.35, 0.25, 0.20, 0.20)
# Until the lender learns of it: median days, log-normal with this spread. A victim complains sooner than a first
# payment that never comes is understood.
LABEL_DELAY_MEDIAN_DAYS = {"ring": 45.0, "stolen": 28.0, "synthetic": 85.0, "bust_out": 60.0}
LABEL_DELAY_SIGMA = 0.5
MISSED_SHARE = 0.08  # frauds that are never found, and stand as honest in the lender's books
_HOUR = 3_600.0


@dataclass(slots=True)
class FraudEvent:
    """One application of a campaign. changes: what differs from the person's own columns, by name."""

    t: int
    person: int
    kind: int
    place: int
    changes: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Schemer:
    """Plans campaigns one after another. `honest` people are victims (indices 0 to honest - 1); own identities of
    fraudsters are taken from `fresh`, first index on."""

    rng: np.random.Generator
    ids: Ids
    level: Difficulty
    agents: Agents
    horizon_s: int
    honest: int
    fresh: int

    def _shows(self, strength: float = 1.0) -> bool:
        return bool(self.rng.random() < min(0.98, self.level.tell * strength))

    def _reuses(self, strength: float = 1.0) -> bool:
        return bool(self.rng.random() < self.level.reuse * strength)

    def _identity(self) -> int:
        self.fresh += 1
        return self.fresh - 1

    def _start(self) -> float:
        return float(self.rng.uniform(0, self.horizon_s))

    def _gap(self, hours: float) -> float:
        return float(self.rng.exponential(hours * _HOUR * self.level.pace)) + 120.0

    def _uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def _new_contacts(self, changes: dict[str, float]) -> None:
        if self._shows():
            changes["email_age_days"] = self._uniform(0, 8)
        if self._shows():
            changes["phone_age_days"] = self._uniform(0, 25)
        if self._shows(0.8):
            changes["device_age_days"] = self._uniform(0, 4)
        if self._shows(0.6):
            changes["phone_name_match"] = 0.0
        if self._shows(0.4):
            changes["phone_voip"] = 1.0

    def _hidden_network(self, changes: dict[str, float]) -> None:
        if self._shows(0.6):
            changes["ip_proxy"] = 1.0
        if self._shows(0.8):
            changes["distance_km"] = float(self.rng.lognormal(6.2, 1.0))
        if self._shows(0.25):
            changes["device_emulator"] = 1.0
        # Practised hands, even where no script fills in the form.
        changes["form_seconds"] = float(self.rng.lognormal(4.7 if self._shows(0.9) else 5.6, 0.45))

    def _greed(self, changes: dict[str, float], strength: float = 1.0) -> None:
        # Nobody steals by halves: even the careful ones ask for more than most.
        changes["amount_factor"] = self._uniform(1.4, 2.8) if self._shows(strength) else self._uniform(1.0, 1.7)
        if self._shows(0.8 * strength):
            changes["income_claim"] = self._uniform(1.4, 2.6)

    def _at_agent(self, changes: dict[str, float], agent: int) -> None:
        changes["agent_index"] = float(agent)

    def ring(self) -> list[FraudEvent]:
        """3 or more identities, hours apart (days when patient)."""
        size = 3 + int(self.rng.poisson(6))
        devices = self.ids.many("device", 1 + size // 6)
        phones, emails = self.ids.many("phone", 1 + size // 5), self.ids.many("email", 1 + size // 4)
        address, employer, ip = self.ids.one("address"), self.ids.one("employer"), self.ids.one("ip")
        agent = int(self.rng.integers(len(self.agents.ids))) if self.rng.random() < 0.22 else -1
        employer_age = self._uniform(0, 250)
        t, events = self._start(), []
        for _ in range(size):
            c: dict[str, float] = {"channel": 0.0}
            if agent >= 0:
                self._at_agent(c, agent)
            else:
                if self._reuses():
                    c["device"] = float(self.rng.choice(devices))
                if self._reuses():
                    c["ip"] = float(ip)
                self._hidden_network(c)
            if self._reuses(0.7):
                c["phone"] = float(self.rng.choice(phones))
            if self._reuses(0.5):
                c["email"] = float(self.rng.choice(emails))
            if self._reuses(0.8):
                c["address"] = float(address)
            if self._reuses(0.7):
                c["employer"], c["employer_age_days"] = float(employer), employer_age
            if self._shows(0.9):
                c["identity_match"] = self._uniform(40, 88)
            if self._shows(0.3):
                c["mail_drop"] = 1.0
            self._new_contacts(c)
            self._greed(c)
            events.append(FraudEvent(int(t), self._identity(), 1, 0, c))
            t += self._gap(1.5)
        return events

    def stolen(self) -> list[FraudEvent]:
        """1 to 6 victims of one thief; the victims' own data are right."""
        device, phone, ip = self.ids.one("device"), self.ids.one("phone"), self.ids.one("ip")
        t, events = self._start(), []
        for _ in range(int(self.rng.integers(1, 7))):
            victim = int(self.rng.integers(self.honest))
            c: dict[str, float] = {"channel": 0.0, "email": float(self.ids.one("email"))}
            c["device"] = float(device if self._reuses() else self.ids.one("device"))
            c["phone"] = float(phone if self._reuses(0.5) else self.ids.one("phone"))
            c["ip"] = float(ip if self._reuses() else self.ids.one("ip"))
            self._new_contacts(c)
            self._hidden_network(c)
            if self._shows(1.2):
                c["phone_name_match"] = 0.0
            if self._shows(0.5):
                c["address"], c["mail_drop"] = float(self.ids.one("address")), 1.0
            self._greed(c, 0.7)
            for place in range(1 + int(self.rng.random() < 0.3)):
                events.append(FraudEvent(int(t), victim, 2, place, dict(c)))
                t += self._gap(2.0)
        return events

    def synthetic(self) -> list[FraudEvent]:
        """A farm of 2 to 6 invented people, days or weeks apart."""
        address, phone, device = self.ids.one("address"), self.ids.one("phone"), self.ids.one("device")
        employer, employer_age = self.ids.one("employer"), self._uniform(0, 400)
        t, events = self._start(), []
        for _ in range(int(self.rng.integers(2, 7))):
            person = self._identity()
            c: dict[str, float] = {} if self.rng.random() < 0.3 else {"channel": 0.0}
            if self._reuses(0.9):
                c["address"] = float(address)
            if self._reuses(0.4):
                c["phone"] = float(phone)
            if self._reuses(0.6) and "channel" in c:
                c["device"] = float(device)
            if self._reuses(0.6):
                c["employer"], c["employer_age_days"] = float(employer), employer_age
            if self._shows(1.7):
                c["file_months"] = self._uniform(0, 14) if self.rng.random() < 0.7 else float("nan")
            if self._shows(1.3):
                c["identity_match"] = self._uniform(45, 88)
            if self._shows(0.9):
                c["phone_voip"] = 1.0
            if self._shows(0.8):
                c["mail_drop"] = 1.0
            if self._shows(1.2):
                c["email_age_days"] = self._uniform(10, 150)
            if self._shows(1.0):
                c["phone_age_days"] = self._uniform(10, 120)
            self._greed(c, 0.6)
            for place in range(1 + int(self.rng.random() < 0.4)):
                events.append(FraudEvent(int(t), person, 3, place, dict(c)))
                t += self._gap(12.0)
        return events

    def bust_out(self) -> list[FraudEvent]:
        """One real person, 2 to 6 applications, each for more."""
        person, t, events = self._identity(), self._start(), []
        base: dict[str, float] = {"channel": 0.0} if self.rng.random() < 0.7 else {}
        self._greed(base, 1.5)
        if self._shows(0.7):
            base["employer"], base["employer_age_days"] = float(self.ids.one("employer")), self._uniform(0, 300)
        if self._shows(0.5):
            base["email_age_days"] = self._uniform(0, 15)
        for place in range(int(self.rng.integers(2, 7))):
            c = dict(base)
            c["amount_factor"] = c.get("amount_factor", 1.0) * 1.15**place
            if "channel" in c and self._shows(0.7):
                c["device"], c["device_age_days"] = float(self.ids.one("device")), self._uniform(0, 10)
            if place and self._shows(0.5):
                c["phone"], c["phone_age_days"] = float(self.ids.one("phone")), self._uniform(0, 15)
            if self._shows(0.7):
                c["form_seconds"] = float(self.rng.lognormal(4.9, 0.4))
            events.append(FraudEvent(int(t), person, 4, place, c))
            t += self._gap(6.0)
        return events

    def plan(self, target: int) -> list[FraudEvent]:
        """Campaigns of all four kinds until each has its share of about `target` events within the horizon."""
        makers: tuple[Callable[[], list[FraudEvent]], ...] = (self.ring, self.stolen, self.synthetic, self.bust_out)
        planned: list[FraudEvent] = []
        for make, share in zip(makers, SHARES, strict=True):
            kept: list[FraudEvent] = []
            while len(kept) < target * share:
                kept.extend(event for event in make() if event.t < self.horizon_s)
            planned.extend(kept)
        return planned


def label_delays(rng: np.random.Generator, kinds: np.ndarray) -> np.ndarray:
    """Seconds until each fraud is known (the median of its type, log-normal); -1 for those that are never found and
    for honest applications. `kinds`: int array of 0 (honest) and 1 + the place in FRAUD_TYPES."""
    medians = np.array([0.0, *(LABEL_DELAY_MEDIAN_DAYS[name] for name in FRAUD_TYPES)])
    delay = medians[kinds] * rng.lognormal(0.0, LABEL_DELAY_SIGMA, len(kinds)) * DAY_SECONDS
    missed = rng.random(len(kinds)) < MISSED_SHARE
    return np.where((kinds == LEGITIMATE) | missed, -1, delay).astype(np.int64)
