"""What every feature store must do."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import StoreError
from engine.features.encoding import Field, Kind, RowEncoder, RowSchema
from engine.features.evolve import describe
from engine.features.store import (
    FeatureStore,
    Row,
    StoreTimeout,
    StoreUnavailable,
    WriteResult,
    event_time_of,
    row_key,
)

SCHEMA = RowSchema("bureau", (Field("score", Kind.FLOAT64), Field("note", Kind.STRING)))
ENCODER = RowEncoder(SCHEMA)


def value(score: float, event_time_us: int, note: str | None = None) -> bytes:
    return ENCODER.encode({"score": score, "note": note}, event_time_us)


def row(entity_id: str, score: float, event_time_us: int, view: str = "bureau", entity: str = "subject") -> Row:
    return Row(row_key(entity, entity_id, view), value(score, event_time_us), event_time_us)


def test_it_speaks_the_protocol(store: FeatureStore) -> None:
    assert isinstance(store, FeatureStore)
    assert store.name
    store.ping()


def test_rows_come_in_the_order_of_the_keys_with_gaps_where_there_are_none(store: FeatureStore) -> None:
    rows = [row(str(i), i, 100 + i) for i in range(5)]
    assert store.write(rows) == WriteResult(written=5)
    keys = [rows[3].key, row_key("subject", "absent", "bureau"), rows[0].key, rows[3].key, rows[4].key]
    assert store.read(keys) == [rows[3].value, None, rows[0].value, rows[3].value, rows[4].value]
    assert store.read([]) == []


def test_the_newer_event_time_wins_whenever_it_comes(store: FeatureStore) -> None:
    newer, older = row("1", 2.0, 200), row("1", 1.0, 100)
    assert store.write([older]) == WriteResult(written=1)
    assert store.write([newer]) == WriteResult(written=1)
    assert store.write([older]) == WriteResult(ignored_older=1)
    assert store.read([newer.key]) == [newer.value]


def test_times_before_1970_are_older(store: FeatureStore) -> None:
    store.write([row("1", 1.0, 5)])
    assert store.write([row("1", 2.0, -5)]) == WriteResult(ignored_older=1)


def test_duplicates_are_harmless(store: FeatureStore) -> None:
    one = row("1", 1.0, 100)
    result = store.write([one, one])
    assert result.written + result.ignored_older == 2
    store.write([one])
    assert store.read([one.key]) == [one.value]
    assert len(list(store.scan())) == 1


def test_of_two_rows_with_one_event_time_the_same_stays_whatever_the_order(store: FeatureStore) -> None:
    left = [row(str(i), 1.0, 100) for i in range(8)]
    right = [row(str(i), float(-i), 100) for i in range(8)]
    store.write([pair[i % 2] for i, pair in enumerate(zip(left, right, strict=True))])
    store.write(left)
    store.write(right)
    expected = [max(a.value, b.value) for a, b in zip(left, right, strict=True)]
    assert store.read([r.key for r in left]) == expected


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(-3, 3), st.integers(0, 3)), max_size=12), st.randoms())
def test_the_outcome_does_not_depend_on_the_order(
    store: FeatureStore, writes: list[tuple[str, int, int]], order: random.Random
) -> None:
    for entity_id in "ab":
        store.delete_entity("subject", entity_id)
    rows = [row(entity_id, score, time_us) for entity_id, time_us, score in writes]
    expected: dict[bytes, bytes] = {}
    for item in sorted(rows, key=lambda r: (r.event_time_us, r.value)):
        expected[item.key] = item.value
    order.shuffle(rows)
    cut = len(rows) // 2
    store.write(rows[:cut])
    store.write(rows[cut:])
    assert dict(store.scan()) == expected


def test_big_batches(store: FeatureStore) -> None:
    rows = [row(f"{i:05d}", i, i, view=f"v{i % 3}") for i in range(5_000)]
    random.Random(7).shuffle(rows)
    assert store.write(iter(rows)) == WriteResult(written=5_000)
    assert store.write(rows) == WriteResult(ignored_older=5_000)
    assert store.read([r.key for r in rows]) == [r.value for r in rows]


@pytest.mark.parametrize("entity_id", ["a\0b", "}{", "a}x", "日本", " ", "x" * 256, "\x7f\n", "a/b"])
def test_odd_ids(store: FeatureStore, entity_id: str) -> None:
    odd, plain = row(entity_id, 1.0, 100), row("a", 2.0, 100)
    store.write([odd, plain])
    assert store.read([odd.key, plain.key]) == [odd.value, plain.value]
    assert store.delete_entity("subject", entity_id) == 1
    assert store.read([odd.key, plain.key]) == [None, plain.value]


def test_large_values(store: FeatureStore) -> None:
    large = Row(row_key("subject", "1", "bureau"), value(1.0, 1, "é" * 30_000), 1)
    store.write([large])
    assert store.read([large.key]) == [large.value]


def test_a_row_that_hides_its_event_time_is_refused(store: FeatureStore) -> None:
    one = row("1", 1.0, 100)
    for wrong in (Row(one.key, one.value, 101), Row(one.key, b"short", 100)):
        with pytest.raises(ValueError, match="event time"):
            store.write([wrong])
    assert store.read([one.key]) == [None]


def test_an_entity_goes_with_all_its_views_and_nobody_else(store: FeatureStore) -> None:
    gone = [row("1", i, 100, view=view) for i, view in enumerate(("bureau", "a", "z.9"))]
    kept = [row(i, 5.0, 100) for i in ("10", "0", "1}x", "2", "1/", "1}")] + [row("1", 5.0, 100, entity="device")]
    store.write(gone + kept)
    assert store.delete_entity("subject", "1") == 3
    assert store.delete_entity("subject", "1") == 0
    assert store.read([r.key for r in gone]) == [None] * 3
    assert store.read([r.key for r in kept]) == [r.value for r in kept]


def test_a_deleted_entity_may_come_back(store: FeatureStore) -> None:
    one = row("1", 1.0, 100)
    store.write([one])
    store.delete_entity("subject", "1")
    assert store.write([one]) == WriteResult(written=1)
    assert store.read([one.key]) == [one.value]


def test_scan_gives_every_row_under_a_prefix_once(store: FeatureStore) -> None:
    rows = [row(f"{i:05d}", i, 1) for i in range(2_500)] + [row("1", 0.0, 1, entity="device")]
    store.write(rows)
    assert sorted(store.scan()) == sorted((r.key, r.value) for r in rows)
    under = [(r.key, r.value) for r in rows if r.key.startswith(b"{subject/01")]
    assert sorted(store.scan(b"{subject/01")) == sorted(under)
    assert len(under) == 1_000
    assert list(store.scan(b"{merchant/")) == []
    assert [key for key, _ in store.scan(rows[7].key)] == [rows[7].key]


def test_a_scan_may_go_on_while_rows_come(store: FeatureStore) -> None:
    rows = [row(f"{i:05d}", i, 1) for i in range(2_500)]
    store.write(rows)
    seen = set()
    for i, (key, _) in enumerate(store.scan()):
        seen.add(key)
        if i % 500 == 0:
            store.write([row(f"{i:05d}x", i, 1)])
    assert seen >= {r.key for r in rows}


def test_schemas_are_kept_for_reading_by_name(store: FeatureStore) -> None:
    assert store.get_schema(SCHEMA.fingerprint) is None
    for _ in range(2):
        store.put_schema(SCHEMA.fingerprint, SCHEMA.canonical)
    assert store.get_schema(SCHEMA.fingerprint) == SCHEMA.canonical
    assert describe(value(0.5, 9, "x"), store.get_schema).values == {"score": 0.5, "note": "x"}
    assert list(store.scan()) == []


def test_what_was_written_is_there_after_reopening(open_store: Callable[[], FeatureStore], durable: bool) -> None:
    if not durable:
        pytest.skip("this store keeps nothing, and says so")
    rows = [row(str(i), i, 100) for i in range(50)]
    first = open_store()
    first.write(rows)
    first.put_schema(SCHEMA.fingerprint, SCHEMA.canonical)
    first.delete_entity("subject", "7")
    first.close()
    second = open_store()
    assert second.read([r.key for r in rows]) == [None if i == 7 else r.value for i, r in enumerate(rows)]
    assert second.get_schema(SCHEMA.fingerprint) == SCHEMA.canonical
    assert second.write([row("1", 9.0, 50)]) == WriteResult(ignored_older=1)
    second.close()


def test_a_deadline_that_has_passed_costs_nothing_but_an_error(store: FeatureStore) -> None:
    one = row("1", 1.0, 1)
    store.write([one])
    with pytest.raises(StoreTimeout):
        store.read([one.key], time.monotonic() - 0.001)
    assert store.read([one.key], time.monotonic() + 5) == [one.value]


def test_a_closed_store_says_so(store: FeatureStore) -> None:
    store.close()
    store.close()
    one = row("1", 1.0, 1)
    for call in (
        lambda: store.read([one.key]),
        lambda: store.write([one]),
        lambda: store.delete_entity("subject", "1"),
        lambda: list(store.scan()),
        lambda: store.put_schema(b"12345678", b"{}"),
        lambda: store.get_schema(b"12345678"),
        store.ping,
    ):
        with pytest.raises(StoreUnavailable):
            call()


def test_many_threads_write_one_row_and_the_newest_wins(store: FeatureStore) -> None:
    rows = [row("1", i, i) for i in range(200)]
    random.Random(3).shuffle(rows)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda r: store.write([r]), rows))
    newest = max(rows, key=lambda r: r.event_time_us)
    assert store.read([newest.key]) == [newest.value]
    assert sum(r.written + r.ignored_older for r in results) == 200


def test_readers_see_whole_rows_that_never_grow_older(store: FeatureStore) -> None:
    """Also while the embedded store makes room under them."""
    keys = [row_key("subject", "1", view) for view in ("a", "b", "c")]
    stop = threading.Event()
    wrong: list[object] = []
    rounds = []

    def read() -> None:
        newest = [-1.0] * len(keys)
        count = 0
        while not stop.is_set():
            try:
                for i, found in enumerate(store.read(keys)):
                    if found is not None:
                        score = float(describe(found, lambda _: SCHEMA.canonical).values["score"] or 0.0)
                        if score < newest[i]:
                            wrong.append((score, newest[i]))
                        newest[i] = score
            except (StoreError, ValueError) as e:
                wrong.append(e)
                return
            count += 1
        rounds.append(count)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for i in range(60):
        filler = [row(f"filler{i}/{j}", j, 1) for j in range(40)]
        store.write([*(Row(key, value(float(i), i), i) for key in keys), *filler])
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(rounds) == 4


def test_an_update_reads_changes_and_writes(store: FeatureStore) -> None:
    one, two = row("1", 1.0, 100), row("2", 2.0, 100)
    store.write([one])
    seen: list[bytes | None] = []

    def to(new: bytes | None, held: bytes | None) -> bytes | None:
        seen.append(held)
        return new

    newer = value(5.0, 200)
    held = store.update([(one.key, partial(to, newer)), (two.key, partial(to, None)), (one.key, partial(to, None))])
    assert held == [newer, None, newer]
    assert seen[-3:] == [one.value, None, newer]
    assert store.read([one.key, two.key]) == [newer, None]
    assert store.update([]) == []


def test_no_update_is_lost_among_many_at_once(store: FeatureStore) -> None:
    keys = [row_key("device", name, "bureau") for name in ("a", "b", "c")]

    def one_more(held: bytes | None) -> bytes:
        count = 0 if held is None else int(describe(held, lookup).values["score"] or 0)
        return value(count + 1.0, 1 + (0 if held is None else event_time_of(held)))

    store.put_schema(SCHEMA.fingerprint, SCHEMA.canonical)
    lookup = store.get_schema

    def work() -> None:
        for _ in range(10):
            store.update([(key, one_more) for key in keys])

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(work) for _ in range(6)]:
            future.result()
    for held in store.read(keys):
        assert held is not None
        assert describe(held, lookup).values["score"] == 60.0


def test_rows_are_deleted_by_key(store: FeatureStore) -> None:
    one, two = row("1", 1.0, 100), row("2", 2.0, 100)
    store.write([one, two])
    assert store.delete([one.key, row_key("subject", "absent", "bureau")]) == 1
    assert store.read([one.key, two.key]) == [None, two.value]


def test_all_schemas_are_listed(store: FeatureStore) -> None:
    other = RowSchema("bureau", (Field("score", Kind.INT64),))
    for schema in (SCHEMA, other, SCHEMA):
        store.put_schema(schema.fingerprint, schema.canonical)
    assert sorted(store.schemas()) == sorted((s.fingerprint, s.canonical) for s in (SCHEMA, other))
