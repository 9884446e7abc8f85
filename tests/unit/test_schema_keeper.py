"""Row schemas beside the rows: also when the store comes later, or is emptied."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

import pytest

from engine.features.store import StoreUnavailable
from engine.features.stores.memory import MemoryStore
from engine.plan import BundlePlan
from engine.schema_keeper import SchemaKeeper, schemas_of
from tests.support.bundles import shipped


class Absent(MemoryStore):
    """The memory store, not there until it is."""

    there = True

    def schemas(self) -> Iterator[tuple[bytes, bytes]]:
        if not self.there:
            raise StoreUnavailable("not there")
        return super().schemas()


def until(true: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end_s, "it did not come"
        time.sleep(0.01)


@pytest.fixture
def store() -> Absent:
    return Absent()


def test_all_schemas_are_kept_again_after_the_store_was_emptied(store: Absent) -> None:
    plan = shipped().plan
    keeper = SchemaKeeper(store, check_every_s=0.05)
    try:
        keeper.keep(plan)
        wanted = dict(schemas_of(plan))
        assert dict(store.schemas()) == wanted
        assert {fingerprint for fingerprint, _ in plan.counters.schemas} <= wanted.keys()
        store._schemas.clear()
        until(lambda: dict(store.schemas()) == wanted)
    finally:
        keeper.stop()


def test_a_store_that_comes_later_is_no_failure(store: Absent) -> None:
    plan = shipped().plan
    store.there = False
    keeper = SchemaKeeper(store, check_every_s=0.05)
    try:
        keeper.keep(plan)
        store.there = True
        until(lambda: dict(store.schemas()) == dict(schemas_of(plan)))
    finally:
        keeper.stop()


def test_schemas_of_others_are_handed_on(store: Absent) -> None:
    told: list[tuple[BundlePlan, Mapping[bytes, bytes]]] = []
    store.put_schema(b"others..", b"{}")
    keeper = SchemaKeeper(store, lambda plan, schemas: told.append((plan, schemas)))
    try:
        keeper.keep(shipped().plan)
    finally:
        keeper.stop()
    assert told[0][0] is shipped().plan
    assert told[0][1][b"others.."] == b"{}"
