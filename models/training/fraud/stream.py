"""A deterministic stream of loan applications, a few of them fraudulent.

    stream = generate(seed=1, days=252, daily=700, level="hard")

It is invented from beginning to end. It has the shape of the real problem (rare events, shared devices and agents,
labels that come weeks late or never), which is what the feature pipeline, the counters and the drift checks need. It
is no evidence of how much fraud a model finds in the wild.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.training.fraud.difficulty import DEFAULT_LEVEL, Difficulty, level_named
from models.training.fraud.population import (
    ABSENT,
    DAY_SECONDS,
    ENTITIES,
    Agents,
    Columns,
    Floats,
    Ids,
    Ints,
    honest_applications,
    make_agents,
    make_people,
)
from models.training.fraud.schemes import FraudEvent, Schemer, label_delays

# What sources other than the counters say of an application and its entities, one column each.
FACTS = (
    "amount",
    "income_monthly",
    "occupation_income",
    "form_seconds",
    "distance_km",
    "identity_match",
    "file_months",
    "device_age_days",
    "device_emulator",
    "phone_age_days",
    "phone_voip",
    "phone_name_match",
    "email_age_days",
    "mail_drop",
    "employer_age_days",
    "ip_proxy",
    "agent_tenure_days",
)
_PERSONAL = (
    "occupation_income",
    "income_claim",
    "identity_match",
    "file_months",
    "device_age_days",
    "device_emulator",
    "phone_age_days",
    "phone_voip",
    "phone_name_match",
    "email_age_days",
    "mail_drop",
    "employer_age_days",
)
_ONLINE, _POINT_OF_SALE, _BRANCH = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Stream:
    """Applications in order of time; every array has one value an application.

    t_s: seconds from the start of the stream; ids: entity -> id, -1 where the application has none (no device in a
    branch, no agent online); facts: column of FACTS -> value, NaN for missing, amounts in whole USD; kind: 0 honest,
    else 1 + the place in FRAUD_TYPES; known_s: when the fraud became known to the lender, in seconds from the start,
    or -1 for never (honest, or missed).
    """

    t_s: Ints
    ids: dict[str, Ints]
    facts: dict[str, Floats]
    kind: Ints
    known_s: Ints
    days: int
    level: str

    def __len__(self) -> int:
        return len(self.t_s)

    def known_fraud(self, at_s: int | None = None) -> np.ndarray:
        """Whether each application is known as fraud at `at_s` (bool). None: whether it ever becomes known."""
        found = self.known_s >= 0
        return found if at_s is None else found & (self.known_s <= at_s)


def generate(
    seed: int = 1,
    *,
    days: int = 252,
    daily: float = 700.0,
    fraud_share: float = 0.012,
    level: str | Difficulty = DEFAULT_LEVEL,
) -> Stream:
    """About `days * daily` applications, the share `fraud_share` (0 to 0.5) of them fraudulent.

    The same arguments give the same stream. Raises ValueError for an unknown level or a share out of range.
    """
    if not 0.0 <= fraud_share <= 0.5:
        raise ValueError(f"fraud_share {fraud_share} is not between 0 and 0.5")
    level = level_named(level) if isinstance(level, str) else level
    rng = np.random.default_rng(seed)
    ids = Ids()
    honest = round(days * daily * (1 - fraud_share))
    frauds = round(days * daily * fraud_share)
    agents = make_agents(rng, ids, daily)
    persons = max(1, round(honest / 1.25))
    # The last ones are the identities of fraudsters; two for each event are more than enough.
    people = make_people(rng, ids, level, persons, daily, singles=2 * frauds + 40)
    t, person, place = honest_applications(rng, people, persons, honest, days)
    schemer = Schemer(rng, ids, level, agents, days * DAY_SECONDS, honest=persons, fresh=persons)
    events = schemer.plan(frauds) if frauds else []
    t = np.concatenate([t, np.array([e.t for e in events], np.int64)])
    person = np.concatenate([person, np.array([e.person for e in events], np.int64)])
    place = np.concatenate([place, np.array([e.place for e in events], np.int64)])
    kind = np.concatenate([np.zeros(len(t) - len(events), np.int64), np.array([e.kind for e in events], np.int64)])

    columns = _columns(rng, ids, level, agents, people.columns, events, t, person, place, daily)
    delays = label_delays(rng, kind)
    order = np.lexsort((np.arange(len(t)), t))
    known = np.where(delays < 0, -1, t + delays)
    return Stream(
        t_s=t[order],
        ids={name: columns[name][order].astype(np.int64) for name in ENTITIES},
        facts={name: columns[name][order].astype(np.float64) for name in FACTS},
        kind=kind[order],
        known_s=known[order],
        days=days,
        level=level.name,
    )


def _changed(events: list[FraudEvent], start: int, name: str) -> tuple[Ints, Floats]:
    """Rows and values of the events that change the column `name`; fraud events stand at the end, from `start`."""
    found = [(start + i, e.changes[name]) for i, e in enumerate(events) if name in e.changes]
    return np.array([i for i, _ in found], np.int64), np.array([v for _, v in found], np.float64)


def _columns(
    rng: np.random.Generator,
    ids: Ids,
    level: Difficulty,
    agents: Agents,
    people: Columns,
    events: list[FraudEvent],
    t: Ints,
    person: Ints,
    place: Ints,
    daily: float,
) -> Columns:
    """One value an application in every column: the person's own, what the channel makes of it, and on top what a
    fraud changes."""
    n, start = len(t), len(t) - len(events)
    c: Columns = {name: people[name][person].astype(np.float64) for name in (*ENTITIES[:-1], *_PERSONAL)}
    since_first = _since_first_days(t, person)
    for name in ("device_age_days", "phone_age_days", "email_age_days", "employer_age_days"):
        c[name] = c[name] + since_first

    # A second device for one in ten, most of them not new.
    other = rng.random(n) < 0.1
    c["device"][other] = ids.many("device", int(other.sum()))

    channel = rng.choice(3, size=n, p=[0.63, 0.31, 0.06])
    for rows, value in (_changed(events, start, "channel"),):
        channel[rows] = value.astype(np.int64)
    agent = rng.choice(len(agents.ids), size=n, p=agents.shares)
    rows, value = _changed(events, start, "agent_index")
    channel[rows], agent[rows] = _POINT_OF_SALE, value.astype(np.int64)
    online, at_agent, branch = channel == _ONLINE, channel == _POINT_OF_SALE, channel == _BRANCH

    _networks(rng, ids, level, c, online, daily)
    c["form_seconds"] = rng.lognormal(np.where(at_agent, 5.5, 6.0), 0.6, n)
    quick = rng.random(n) < 0.07 * level.noise
    again = place > 0  # a form sent a second time is filled in already
    c["form_seconds"] = np.where(quick | again, rng.lognormal(4.8, 0.5, n), c["form_seconds"])
    wish = rng.lognormal(np.log(9_000), 0.65, n) * np.sqrt(c["occupation_income"] / 4_500)
    c["amount_factor"] = np.where(again, rng.uniform(0.8, 1.2, n), 1.0)

    for name in (*ENTITIES[:-1], *_PERSONAL, "ip_proxy", "distance_km", "form_seconds", "amount_factor"):
        rows, value = _changed(events, start, name)
        c[name][rows] = value

    c["amount"] = np.clip(np.round(wish * c["amount_factor"], -2), 500, 50_000)
    income = np.round(c["occupation_income"] * c["income_claim"], -1)
    c["income_monthly"] = np.where(people["income_missing"][person], np.nan, income)
    created = agents.created_s[agent]
    c["agent"] = np.where(at_agent, agents.ids[agent], ABSENT).astype(np.float64)
    c["agent_tenure_days"] = np.where(at_agent, (t - created) / DAY_SECONDS, np.nan)
    c["device"] = np.where(at_agent, agents.tablets[agent], c["device"])
    c["ip"] = np.where(at_agent, agents.ips[agent], c["ip"])
    c["device_age_days"] = np.where(at_agent, c["agent_tenure_days"] * 0.4, c["device_age_days"])
    c["device_emulator"] = np.where(at_agent, 0.0, c["device_emulator"])
    c["ip_proxy"] = np.where(at_agent, 0.0, c["ip_proxy"])
    c["distance_km"] = np.where(at_agent, rng.lognormal(1.8, 0.9, n), c["distance_km"])
    for name in ("device", "ip"):
        c[name] = np.where(branch, ABSENT, c[name])
    for name in ("device_age_days", "device_emulator", "ip_proxy", "distance_km", "form_seconds"):
        c[name] = np.where(branch, np.nan, c[name])
    c["employer_age_days"] = np.where(c["employer"] < 0, np.nan, c["employer_age_days"])
    return c


def _since_first_days(t: Ints, person: Ints) -> Floats:
    """Days since the person's first application in the stream."""
    first = np.full(int(person.max(initial=0)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, person, t)
    since: Floats = (t - first[person]) / DAY_SECONDS
    return since


def _networks(
    rng: np.random.Generator, ids: Ids, level: Difficulty, c: Columns, online: np.ndarray, daily: float
) -> None:
    """Where an online application comes from: home, a mobile network that hundreds share, or a VPN."""
    n = len(online)
    route = rng.random(n)
    vpn = online & (route < 0.04 * level.noise)
    mobile = online & ~vpn & (route > 0.6)
    carriers = ids.many("ip", max(2, round(daily / 30)))
    exits = ids.many("ip", max(2, round(daily / 25)))
    c["ip"][mobile] = rng.choice(carriers, size=int(mobile.sum()))
    c["ip"][vpn] = rng.choice(exits, size=int(vpn.sum()))
    c["ip_proxy"] = vpn.astype(np.float64)
    away = rng.random(n) < 0.05 * level.noise
    far = np.where(vpn | away, rng.lognormal(6.2, 1.0, n), rng.lognormal(np.where(mobile, 3.6, 2.3), 1.0, n))
    c["distance_km"] = np.where(rng.random(n) < 0.03, np.nan, far)
