"""The stores that the acceptance suite runs against. A new store is one more entry of STORES."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.features.store import FeatureStore
from engine.features.stores.embedded import EmbeddedStore
from engine.features.stores.memory import MemoryStore

# How to open a store on a place of its own; opening the same place again finds what was written there.
STORES: dict[str, Callable[[Path], FeatureStore]] = {
    "memory": lambda _: MemoryStore(),
    "embedded": lambda place: EmbeddedStore(place / "features"),
    # Starts with so little room that the suite makes it grow.
    "embedded_small": lambda place: EmbeddedStore(place / "features", map_bytes=1 << 16),
}
DURABLE = {"embedded", "embedded_small"}


@pytest.fixture(params=sorted(STORES))
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], FeatureStore]:
    """Opens the store under test, every time on the same place."""
    return lambda: STORES[request.param](tmp_path)


@pytest.fixture
def store(open_store: Callable[[], FeatureStore]) -> Iterator[FeatureStore]:
    """The store under test, empty."""
    opened = open_store()
    yield opened
    opened.close()


@pytest.fixture
def durable(request: pytest.FixtureRequest) -> bool:
    """Whether the store under test keeps rows after it is closed."""
    return request.node.callspec.params["open_store"] in DURABLE
