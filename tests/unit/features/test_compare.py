"""Stores compared whatever order they give their keys in, and while they are written to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.features.compare import Comparer, Comparison, Difference
from engine.features.encoding import Field, Kind, RowEncoder, RowSchema
from engine.features.stores.memory import MemoryStore

SCHEMA = RowSchema("v", (Field("x", Kind.FLOAT64),))
ENCODER = RowEncoder(SCHEMA)


class Unordered(MemoryStore):
    """A store that gives its keys in another order, as a hash table does."""

    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """See `FeatureStore.scan`."""
        return iter(sorted(super().scan(prefix), key=lambda row: row[0][::-1]))


def put(store: MemoryStore, number: int, x: float = 1.0, time_us: int = 10) -> None:
    """Writes one row."""
    store.write([(b"{e/%05d}v" % number, ENCODER.encode({"x": x}, time_us), time_us)])


def compare(left: MemoryStore, right: MemoryStore, *, repair: bool = False, prefix: bytes = b"") -> Comparison:
    """The whole comparison."""
    *_, found = Comparer(left, right, repair=repair).run(prefix)
    return found


def spoil(store: MemoryStore, number: int) -> None:
    """Puts bytes that are no row in the place of one."""
    value = bytearray(ENCODER.encode({"x": 5.0}, 99))
    value[30] ^= 1
    store.write([(b"{e/%05d}v" % number, bytes(value), 99)])


@pytest.mark.parametrize("kinds", [(MemoryStore, MemoryStore), (Unordered, MemoryStore), (MemoryStore, Unordered)])
def test_every_difference_is_found_and_mended_in_any_order(
    kinds: tuple[type[MemoryStore], type[MemoryStore]],
) -> None:
    left, right = kinds[0](), kinds[1]()
    for number in range(1300):
        for store in (left, right):
            put(store, number)
    put(left, 2000)
    put(right, 2001)
    put(left, 3, x=2.0, time_us=20)
    put(right, 4, x=2.0, time_us=20)
    put(left, 5, x=1.5)  # greater as bytes, too
    spoil(right, 6)
    for store in (left, right):
        spoil(store, 7)
    spoil(left, 3000)
    expected = {
        Difference.LEFT_ONLY: 1,
        Difference.RIGHT_ONLY: 1,
        Difference.LEFT_NEWER: 1,
        Difference.RIGHT_NEWER: 1,
        Difference.OTHER_BYTES: 1,
        Difference.RIGHT_CORRUPT: 1,
        Difference.BOTH_CORRUPT: 1,
        Difference.LEFT_CORRUPT: 1,
    }
    found = compare(left, right)
    assert found.ordered == (kinds == (MemoryStore, MemoryStore))
    assert (found.differences, found.keys, found.same) == (expected, 1303, 1295)
    assert not found.equal
    assert len(found.examples) == 8

    assert compare(left, right, repair=True).repaired == 6
    left_over = compare(left, right)
    assert left_over.differences == {Difference.BOTH_CORRUPT: 1, Difference.LEFT_CORRUPT: 1}
    assert left.read([b"{e/00005}v"]) == right.read([b"{e/00005}v"]) == [ENCODER.encode({"x": 1.5}, 10)]


def test_only_keys_that_start_so_are_compared() -> None:
    left, right = MemoryStore(), MemoryStore()
    put(left, 1)
    put(left, 2)
    put(right, 2)
    assert compare(left, right, prefix=b"{e/00002}").equal
    assert not compare(left, right, prefix=b"{e/00001}").equal


def test_schemas_are_compared_and_copied() -> None:
    left, right = MemoryStore(), MemoryStore()
    left.put_schema(SCHEMA.fingerprint, SCHEMA.canonical)
    right.put_schema(b"12345678", b"{}")
    found = compare(left, right, repair=True)
    assert found.missing_schemas == {"left": 1, "right": 1}
    assert found.repaired == 2
    assert compare(left, right).equal


def test_a_row_written_to_both_while_they_are_compared_is_no_difference() -> None:
    class Late(MemoryStore):
        """Another writer comes in once the walk has begun."""

        def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
            """See `FeatureStore.scan`."""
            found = list(super().scan(prefix))
            for store in (self, other):
                put(store, 7, x=3.0, time_us=30)
            return iter(found)

    other = MemoryStore()
    left = Late()
    put(left, 7)
    put(other, 8)
    put(left, 8)
    found = compare(left, other)
    assert found.equal
    assert found.same == found.keys == 2
