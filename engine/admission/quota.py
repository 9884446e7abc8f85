"""How many decisions a tenant may have: a token bucket each, refilled at the tenant's rate."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

# The setting's name for tenants that are not named; no tenant is called so.
DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class QuotaSettings:
    """rates: decisions a second by tenant, `default` for all others; a tenant that neither names has no quota. burst_s:
    how many seconds' worth may come at once. tenants_max: how many are remembered."""

    rates: Mapping[str, float] = field(default_factory=dict)
    burst_s: float = 2.0
    tenants_max: int = 10_000


class _Bucket:
    __slots__ = ("at_s", "tokens")

    def __init__(self, tokens: float, at_s: float) -> None:
        self.tokens, self.at_s = tokens, at_s


class Quotas:
    """The buckets of all tenants. One caller at a time; times in seconds on one clock.

    Beyond `tenants_max` the tenant that was not seen for longest is forgotten, and begins with a full bucket when it
    comes back: who can make names up at will is held off by whoever lets callers in, not here.
    """

    def __init__(self, settings: QuotaSettings) -> None:
        self._settings = settings
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    @property
    def any(self) -> bool:
        """Whether there are quotas at all."""
        return bool(self._settings.rates)

    @property
    def tenants(self) -> int:
        """How many are remembered."""
        return len(self._buckets)

    def rate_of(self, tenant: str) -> float | None:
        """Decisions a second; None without a quota."""
        rates = self._settings.rates
        found = rates.get(tenant)
        return rates.get(DEFAULT) if found is None else found

    def word_of(self, tenant: str) -> str:
        """The tenant's name where the settings have it, and `default` for all others: a label that is bounded."""
        return tenant if tenant in self._settings.rates else DEFAULT

    def take(self, tenant: str, count: int, now_s: float) -> float:
        """Takes `count` decisions out of a tenant's bucket. Gives 0.0, or, having taken nothing, the seconds after
        which they can be had.

        More than a bucket holds is given when it is full, and leaves it in debt, so that a large batch is late and
        not impossible.
        """
        rate = self.rate_of(tenant)
        if rate is None:
            return 0.0
        most = max(1.0, rate * self._settings.burst_s)
        bucket = self._buckets.get(tenant)
        if bucket is None:
            bucket = self._buckets[tenant] = _Bucket(most, now_s)
            if len(self._buckets) > self._settings.tenants_max:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(tenant)
            bucket.tokens = min(most, bucket.tokens + (now_s - bucket.at_s) * rate)
            bucket.at_s = now_s
        lacks = min(float(count), most) - bucket.tokens
        # A hair less is enough: a caller that waits as long as it was told is not refused for a rounding.
        if lacks > 1e-6:
            return lacks / rate
        bucket.tokens -= count
        return 0.0

    def give_back(self, tenant: str, count: int) -> None:
        """Puts back what was taken for a call that was then refused for another reason."""
        bucket = self._buckets.get(tenant)
        if bucket is not None:
            bucket.tokens += count
