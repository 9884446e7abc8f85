"""The read between the two halves of a decision: budgets, counts under way, last good rows, other schemas."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.bundle.load import LoadedBundle, load_bundle
from engine.domain.facts import UNREAD, LastGood, RowFault
from engine.errors import Refusal
from engine.feature_reader import FeatureReader, LastGoodRows, ReadSettings
from engine.features.store import StoreTimeout, StoreUnavailable, entity_prefix
from engine.features.stores.memory import MemoryStore
from engine.features.stores.partial import PartialRead
from engine.pipeline import Prepared, prepare
from engine.telemetry.counters import Counters
from tests.support import tiny
from tests.unit.test_gather_rules import features, older, written

NOW = 1_800_000_000_000_000
# Nothing here is late, unless a test wants it.
PATIENT = ReadSettings(budget_s=60.0)


class Scripted(MemoryStore):
    """The memory store; fails when told to, and notes until when it might read."""

    error: Exception | None = None
    until_s: float | None = None

    def read(self, keys: Sequence[bytes], deadline_s: float | None = None) -> list[bytes | None]:
        self.until_s = deadline_s
        if self.error is not None:
            raise self.error
        return super().read(keys, deadline_s)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedBundle:
    return load_bundle(written(tmp_path_factory.mktemp("reader") / "bundle", features()), scenarios=False)


@pytest.fixture
def store() -> Scripted:
    return Scripted()


def prepared(loaded: LoadedBundle) -> Prepared:
    return prepare(loaded.plan, tiny.request(), NOW, time.perf_counter_ns)


def put(store: MemoryStore, loaded: LoadedBundle) -> list[bytes]:
    one = prepared(loaded)
    values = tiny.rows(loaded, NOW)
    store.write([(key, value, NOW) for key, value in zip(one.reads, values, strict=True) if key is not None])
    return values


@pytest.mark.parametrize(
    ("left_s", "budget_s", "reserve_s", "expected_s"),
    [
        (None, 0.05, 0.01, 0.05),
        (1.0, 0.05, 0.01, 0.05),
        (0.04, 0.05, 0.01, 0.03),
        (0.01, 0.05, 0.01, 0.005),  # half of what is left is kept at most
        (1.0, 2.0, 0.0, 1.0),
    ],
)
def test_a_read_leaves_time_for_the_rest_of_the_decision(
    loaded: LoadedBundle, store: Scripted, left_s: float | None, budget_s: float, reserve_s: float, expected_s: float
) -> None:
    reader = FeatureReader(store, ReadSettings(budget_s=budget_s, reserve_s=reserve_s))
    begin_s = time.monotonic()
    reader.read_one(prepared(loaded), None if left_s is None else begin_s + left_s)
    end_s = time.monotonic()
    assert store.until_s is not None
    # The reader looked at the clock somewhere between the two, and had no more left than was left at the first.
    assert expected_s - (end_s - begin_s) <= store.until_s - begin_s <= expected_s + (end_s - begin_s)


def test_a_store_that_fails_leaves_its_rows_unread_and_is_counted(loaded: LoadedBundle, store: Scripted) -> None:
    counters = Counters()
    reader = FeatureReader(store, PATIENT, counters)
    store.error = StoreUnavailable("gone")
    assert reader.read_one(prepared(loaded), None) == [UNREAD, UNREAD]
    assert counters.get("feature_read_failures", store="memory", kind="StoreUnavailable") == 1


def test_a_deadline_too_short_to_read_refuses_the_call(loaded: LoadedBundle, store: Scripted) -> None:
    reader = FeatureReader(store)
    store.error = StoreTimeout("late")
    with pytest.raises(Refusal) as caught:
        reader.read_one(prepared(loaded), time.monotonic() + 0.002)
    assert caught.value.reason == "DEADLINE_TOO_SHORT"
    # With time enough, that it was late says something of the store.
    assert reader.read_one(prepared(loaded), time.monotonic() + 60.0) == [UNREAD, UNREAD]


def test_what_was_read_of_a_partial_answer_is_used(loaded: LoadedBundle, store: Scripted) -> None:
    values = put(store, loaded)
    store.error = PartialRead("half of it", [values[0], UNREAD])
    assert FeatureReader(store, PATIENT).read_one(prepared(loaded), None) == [values[0], UNREAD]


def test_a_row_read_before_stands_in_where_the_catalogue_allows_it(loaded: LoadedBundle, store: Scripted) -> None:
    values = put(store, loaded)
    reader = FeatureReader(store, PATIENT)
    assert reader.read_one(prepared(loaded), None) == values
    store.error = StoreUnavailable("gone")
    # No feature of the second view has such a rule.
    assert reader.read_one(prepared(loaded), None) == [LastGood(values[0]), UNREAD]
    store.error = PartialRead("a row", [values[0], UNREAD])
    assert reader.read_one(prepared(loaded), None) == [values[0], UNREAD]


def test_corrupt_bytes_do_not_take_the_place_of_a_good_row(loaded: LoadedBundle, store: Scripted) -> None:
    values = put(store, loaded)
    reader = FeatureReader(store, PATIENT)
    reader.read_one(prepared(loaded), None)
    store.error = PartialRead("damaged", [values[0][:-1] + b"\0", values[1]])
    assert reader.read_one(prepared(loaded), None)[0] == LastGood(values[0])


def test_a_row_that_is_gone_or_erased_does_not_stand_in(loaded: LoadedBundle, store: Scripted) -> None:
    put(store, loaded)
    reader = FeatureReader(store, PATIENT)
    for forget in (False, True):
        reader.read_one(prepared(loaded), None)
        if forget:
            reader.forget(entity_prefix("applicant", "p1"))
        else:
            store.delete_entity("applicant", "p1")
            reader.read_one(prepared(loaded), None)
        store.error = StoreUnavailable("gone")
        assert reader.read_one(prepared(loaded), None) == [UNREAD, UNREAD]
        store.error = None
        put(store, loaded)


def test_last_good_rows_are_bounded_in_number_and_age() -> None:
    rows = LastGoodRows(100, 60.0)
    for i in range(1000):
        rows.keep(b"%d" % i, b"row")
    kept = [i for i in range(1000) if rows.get(b"%d" % i) is not None]
    assert 50 <= len(kept) <= 101
    assert kept[-1] == 999
    old = LastGoodRows(100, 0.0)
    old.keep(b"a", b"row")
    time.sleep(0.001)
    assert old.get(b"a") is None


def test_a_schema_is_learnt_for_every_flow_that_meets_it(loaded: LoadedBundle, tmp_path: Path, store: Scripted) -> None:
    """Two flows have plans of their own of one view; the store is asked once."""
    other = load_bundle(written(tmp_path / "bundle", features()), scenarios=False)
    schema, row = older(loaded)
    store.put_schema(schema.fingerprint, schema.canonical)
    reader = FeatureReader(store, PATIENT)
    for one in (loaded, other):
        plan = one.plan.flows["tiny_loan.application"].features
        fault = RowFault("account", "other_schema", schema.fingerprint)
        assert reader.learn(plan, [fault])
        assert plan.views[0].translators[schema.fingerprint] is not None
        assert not reader.learn(plan, [fault])
        plan.views[0].translators.clear()
    assert row


def test_waiting_for_counts_leaves_half_of_the_time_for_the_read(loaded: LoadedBundle, store: Scripted) -> None:
    one = prepared(loaded)
    values = put(store, loaded)
    plan = one.flow.features
    object.__setattr__(plan, "counted", (1,))
    try:
        reader = FeatureReader(store, PATIENT)
        waited: list[float] = []

        def pending(keys: Sequence[bytes], until_s: float) -> Sequence[bytes]:
            waited.append(until_s)
            return keys

        reader.pending = pending
        begin_s = time.monotonic()
        # The count is known to be too low; all else is read.
        assert reader.read_one(one, None) == [values[0], UNREAD]
        took_s = time.monotonic() - begin_s
        assert store.until_s is not None
        assert 30.0 - took_s <= store.until_s - waited[0] <= 30.0
    finally:
        object.__setattr__(plan, "counted", ())
