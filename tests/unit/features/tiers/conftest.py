"""The two stores that the tests of the tiers put together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from engine.features.stores.tiered import TieredSettings, TieredStore
from tests.support.faulty import FaultyStore
from tests.unit.features.tiers.rows import Make


@pytest.fixture
def fast() -> FaultyStore:
    """The store that is asked first."""
    return FaultyStore("fast")


@pytest.fixture
def durable() -> FaultyStore:
    """The store that holds everything."""
    return FaultyStore("durable")


@pytest.fixture
def tiered(fast: FaultyStore, durable: FaultyStore) -> Iterator[Make]:
    """Makes tiered stores of the two; they mend quickly, the fast one is never late,
    and they are closed after the test."""
    made: list[TieredStore] = []

    def make(**settings: Any) -> TieredStore:
        made.append(
            TieredStore(fast, durable, TieredSettings(**{"settle_s": 0.05, "fast_timeout_ms": 60_000} | settings))
        )
        return made[-1]

    yield make
    for store in made:
        store.close()
