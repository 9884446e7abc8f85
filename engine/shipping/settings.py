"""How the journal is shipped, and how long what was shipped is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_DAY_S = 86_400
# Cassandra takes no longer time to live, and as it is set up by default no row that would expire in 2038 or later.
_TTL_S_MAX = 20 * 365 * _DAY_S
_EXPIRY_S_MAX = (1 << 31) - 1 - 2 * _DAY_S


@dataclass(frozen=True, slots=True)
class Retention:
    """How many days records are kept in Cassandra, from the moment of the decision.

    days: where no country says otherwise; 0: for ever. by_country: country to days; 0: for ever. Countries are named
    as their records were sealed under (`record.country`).

    Raises ValueError for days that Cassandra cannot keep.
    """

    days: int = 0
    by_country: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for days in (self.days, *self.by_country.values()):
            if not 0 <= days * _DAY_S <= _TTL_S_MAX:
                raise ValueError(f"records are kept for 0 (for ever) to {_TTL_S_MAX // _DAY_S} days, not {days}")

    def days_of(self, country: str) -> int:
        """The days that hold for a record of a country ("" where none is known), 0: for ever."""
        return self.by_country.get(country, self.days)

    @property
    def longest(self) -> int:
        """The days that hold for what belongs to no one country: the most of all, 0: for ever."""
        all_days = (self.days, *self.by_country.values())
        return 0 if 0 in all_days else max(all_days)


def ttl_s(days: int, made_s: float, now_s: float) -> int | None:
    """The seconds that a row lives from now on, so that it ends `days` after it was made; 0: for ever; None: its time
    is over. For ever as well where Cassandra could not keep the row as long as it has to: rather too long than lost."""
    if not days:
        return 0
    left_s = int(made_s + days * _DAY_S - now_s)
    if left_s <= 0:
        return None
    return 0 if now_s + left_s > _EXPIRY_S_MAX else left_s


@dataclass(frozen=True, slots=True)
class ShipSettings:
    """How the shipper works.

    batch_rows, batch_bytes: the most frames, and bytes of them, that are on their way at once; one frame may be more.
    in_flight: statements without an answer. write_timeout_s: the most that one wave of a batch may take. poll_s: how
    long to wait when there is nothing to ship. retry_s, retry_max_s: the first and the longest wait after a failure;
    each is twice the one before, with chance added. share: the part of the time that the shipper works while there is
    something to ship; it rests for the rest, so that what it shares a processor with gets on. keep_local_s: how long
    a segment stays in the directory after its last frame, however early it was shipped. drop: whether segments are let
    go at all.

    Raises ValueError where it makes no sense.
    """

    batch_rows: int = 400
    batch_bytes: int = 4 << 20
    in_flight: int = 64
    write_timeout_s: float = 10.0
    poll_s: float = 0.5
    retry_s: float = 0.25
    retry_max_s: float = 30.0
    share: float = 1.0
    keep_local_s: float = 24 * 3600.0
    drop: bool = True
    retention: Retention = Retention()

    def __post_init__(self) -> None:
        if min(self.batch_rows, self.batch_bytes, self.in_flight) < 1:
            raise ValueError("batches have one row, one byte and one statement at least")
        if min(self.write_timeout_s, self.poll_s, self.retry_s) <= 0 or self.retry_max_s < self.retry_s:
            raise ValueError("times to wait are greater than 0, and retry_max_s is no less than retry_s")
        if not 0 < self.share <= 1:
            raise ValueError("share is more than 0 and at most 1")
        if self.keep_local_s < 0:
            raise ValueError("keep_local_s is not negative")
