"""An applier on a store that can be taken away."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from engine.features.velocity import Definitions, VelocityApplier
from tests.unit.velocity.brute import DEVICE, PHONE
from tests.unit.velocity.switched import SwitchedStore

RETRY_S = (0.002, 0.02)


@pytest.fixture
def store() -> SwitchedStore:
    """The store, up."""
    return SwitchedStore()


@pytest.fixture
def make(store: SwitchedStore) -> Iterator[Callable[..., VelocityApplier]]:
    """Makes appliers on the store; they are stopped in the end."""
    made: list[VelocityApplier] = []

    def build(**options: object) -> VelocityApplier:
        options = {"retry_s": RETRY_S, **options}
        made.append(VelocityApplier(store, Definitions([DEVICE, PHONE]), **options))  # type: ignore[arg-type]
        return made[-1]

    yield build
    store.up.set()
    store.hold.set()
    for applier in made:
        applier.stop(1.0)
