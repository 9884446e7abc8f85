"""Honest applicants and their applications, with the habits that look like fraud but are not.

Hard negatives on purpose: agents at a point of sale submit for many strangers from one tablet and one network;
families share a device, a phone and an address and apply in the same week; students share halls of residence, campus
networks and thin files; mobile networks put hundreds behind one address; people shop around, correct a form and send
it again, buy a new phone, travel, and use a VPN.

Pools (agents, halls, networks, employers) grow with the number of applications a day, so that how busy one of them is
does not depend on the size of the stream.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from models.training.fraud.difficulty import Difficulty

DAY_SECONDS = 86_400
ABSENT = -1  # the id of an entity that an application does not have

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Columns = dict[str, npt.NDArray[Any]]

ENTITIES = ("applicant", "device", "phone", "email", "address", "employer", "ip", "agent")

# Share of applications by local hour, 0 to 23; a flat night, a working-day hump, an evening hump.
_HOURS = np.array(
    [1, 0.6, 0.4, 0.3, 0.3, 0.6, 1.5, 3, 5, 6.5, 7, 7, 6.5, 6.5, 6.5, 6.5, 6.5, 6.5, 7, 7.5, 7, 5.5, 3.5, 2]
)
_WEEKDAYS = np.array([1.1, 1.1, 1.05, 1.05, 1.0, 0.9, 0.8])
_OCCUPATION_INCOME = np.array([2_200, 2_900, 3_600, 4_500, 5_800, 7_400, 9_500])  # median a month, USD
_OCCUPATION_SHARE = np.array([0.12, 0.18, 0.2, 0.2, 0.15, 0.1, 0.05])


@dataclass(slots=True)
class Ids:
    """Hands out fresh entity ids, one sequence an entity."""

    following: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ENTITIES, 0))

    def one(self, entity: str) -> int:
        """One fresh id."""
        return int(self.many(entity, 1)[0])

    def many(self, entity: str, count: int) -> Ints:
        """`count` fresh ids in a row."""
        first = self.following[entity]
        self.following[entity] = first + count
        return np.arange(first, first + count, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Agents:
    """The points of sale: agent i works with tablets[i] and network ips[i], since created_s[i] (seconds, may be
    before the start), and takes shares[i] of all applications made there."""

    ids: Ints
    tablets: Ints
    ips: Ints
    created_s: Floats
    shares: Floats


@dataclass(slots=True)
class People:
    """Everybody who applies, one value a person in each column; see `make_people`."""

    columns: Columns

    def __len__(self) -> int:
        return len(self.columns["applicant"])


def moments(rng: np.random.Generator, count: int, days: int) -> Ints:
    """`count` moments of application in seconds from the start, following the hours of the day and days of the week."""
    weights = _WEEKDAYS[np.arange(days) % 7]
    day = rng.choice(days, size=count, p=weights / weights.sum())
    hour = rng.choice(24, size=count, p=_HOURS / _HOURS.sum())
    return (day * DAY_SECONDS + hour * 3_600 + rng.integers(0, 3_600, count)).astype(np.int64)


def make_agents(rng: np.random.Generator, ids: Ids, daily: float) -> Agents:
    """About one agent for every 6 applications a day made at a point of sale; some are ten times busier than others."""
    count = max(4, round(daily * 0.3 / 6))
    shares = rng.lognormal(0.0, 0.9, count)
    return Agents(
        ids=ids.many("agent", count),
        tablets=ids.many("device", count),
        ips=ids.many("ip", count),
        created_s=-np.minimum(rng.exponential(700, count), 4_000) * DAY_SECONDS,
        shares=shares / shares.sum(),
    )


def _aged(rng: np.random.Generator, count: int, mean_days: float, new_share: float, new_days: float) -> Floats:
    """Ages at a person's first application in days: exponential up to five times the mean, but a share that is new."""
    new = rng.random(count) < new_share
    old = np.minimum(rng.exponential(mean_days, count), 5 * mean_days)
    return np.where(new, rng.uniform(0, new_days, count), old)


def _with_missing(rng: np.random.Generator, values: Floats, share: float) -> Floats:
    return np.where(rng.random(len(values)) < share, np.nan, values)


def make_people(
    rng: np.random.Generator, ids: Ids, level: Difficulty, honest: int, daily: float, singles: int = 0
) -> People:
    """`honest` people with what they own and what sources know of them, then `singles` who live alone.

    Relatives stand next to each other and share `family`; about 6 % are students.
    """
    noise, count = level.noise, honest + singles
    c: Columns = {entity: ids.many(entity, count) for entity in ("applicant", "device", "phone", "email", "address")}
    starts = rng.random(count) < 0.9  # each other person belongs to the family of the person before
    starts[:1] = starts[honest:] = True
    family = np.cumsum(starts) - 1
    c["family"] = family
    first = np.maximum.accumulate(np.where(starts, np.arange(count), 0))
    member = ~starts
    c["address"][member] = c["address"][first[member]]
    for entity, share in (("device", 0.4), ("phone", 0.12), ("email", 0.04)):
        shared = member & (rng.random(count) < share)
        c[entity][shared] = c[entity][first[shared]]
    c["ip"] = ids.many("ip", int(family[-1]) + 1)[family]

    student = starts & (rng.random(count) < 0.07)
    halls = max(2, round(daily * 0.05))
    hall = rng.integers(0, halls, count)
    c["address"][student] = ids.many("address", halls)[hall[student]]
    c["ip"][student] = ids.many("ip", max(1, halls // 4))[hall[student] // 4 % max(1, halls // 4)]
    c["student"] = student

    employers = ids.many("employer", max(20, round(daily * 2.5)))
    weight = 1.0 / np.arange(1, len(employers) + 1) ** 0.8
    c["employer"] = rng.choice(employers, size=count, p=weight / weight.sum())
    c["employer"][rng.random(count) < np.where(student, 0.7, 0.06)] = ABSENT
    employer_age = _aged(rng, int(employers[-1]) + 1, 4_500, 0.05 * noise, 300)
    c["employer_age_days"] = _with_missing(rng, employer_age[np.maximum(c["employer"], 0)], 0.06)

    occupation = np.where(student, 0, rng.choice(len(_OCCUPATION_INCOME), size=count, p=_OCCUPATION_SHARE))
    claim = rng.lognormal(0.0, 0.3, count)
    claim = np.where(rng.random(count) < 0.07 * noise, claim * rng.uniform(1.3, 2.3, count), claim)
    c["occupation_income"] = _OCCUPATION_INCOME[occupation].astype(np.float64)
    c["income_claim"] = claim
    c["income_missing"] = rng.random(count) < 0.03

    c["device_age_days"] = _aged(rng, count, 450, 0.10 * noise, 6)
    c["device_emulator"] = rng.random(count) < 0.004 * noise
    c["phone_age_days"] = _with_missing(rng, _aged(rng, count, 1_800, 0.06 * noise, 40), 0.04)
    c["phone_voip"] = rng.random(count) < 0.03 * noise
    matched = np.where(rng.random(count) < 1 - 0.09 * noise, 1.0, 0.0)
    c["phone_name_match"] = _with_missing(rng, matched, 0.14)
    c["email_age_days"] = _with_missing(rng, _aged(rng, count, 2_000, 0.06 * noise, 20), 0.03)
    c["mail_drop"] = rng.random(count) < 0.012 * noise
    score = 100 - rng.gamma(1.6, 3.2, count)
    score = np.where(rng.random(count) < 0.06 * noise, rng.uniform(45, 85, count), score)
    c["identity_match"] = _with_missing(rng, np.clip(score, 0, 100), 0.02)
    file_months = rng.gamma(2.2, 60, count)
    thin = student | (rng.random(count) < 0.06 * noise)
    file_months = np.where(thin, rng.uniform(0, 20, count), file_months)
    c["file_months"] = _with_missing(rng, file_months, 0.025)
    return People(c)


def honest_applications(
    rng: np.random.Generator, people: People, honest: int, count: int, days: int
) -> tuple[Ints, Ints, Ints]:
    """At most `count` applications of the first `honest` people: moments, people (indices) and the place of each
    application within its episode (0 for the first).

    An episode is one application or, for one in seven, up to four within days: shopping around and corrections.
    Relatives often apply within a week of one another.
    """
    episodes = honest
    start = moments(rng, episodes, days)
    family = people.columns["family"][:honest]
    same = np.flatnonzero((np.diff(family, prepend=-1) == 0) & (rng.random(episodes) < 0.6))
    for i in same:  # in order, for a third member follows the second
        start[i] = start[i - 1] + int(rng.exponential(2.5 * DAY_SECONDS)) + 300
    size = np.where(rng.random(episodes) < 0.15, rng.integers(2, 5, episodes), 1)
    person = np.repeat(np.arange(episodes), size)
    place = np.concatenate([np.arange(n) for n in size]) if episodes else np.zeros(0, np.int64)
    soon = rng.random(len(person)) < 0.5
    gap = np.where(soon, rng.exponential(1_800, len(person)), rng.exponential(4 * DAY_SECONDS, len(person)))
    wait = np.where(place > 0, gap + 60, 0.0)
    total = np.cumsum(wait)
    begin = np.flatnonzero(place == 0)
    since = total - np.repeat(total[begin], size)
    t = start[person] + since.astype(np.int64)
    kept = np.flatnonzero(t < days * DAY_SECONDS)
    if len(kept) > count:
        kept = np.sort(rng.choice(kept, size=count, replace=False))
    return t[kept], person[kept].astype(np.int64), place[kept].astype(np.int64)
