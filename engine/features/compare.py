"""Holds two stores against each other: rows missing on either side, rows that differ, rows that cannot be read.

Both stores may be written to meanwhile: whatever looks like a difference is read once more from both sides before it
counts as one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice, pairwise
from typing import NamedTuple

from engine.features.encoding import STATE_MAGIC, RowError, is_whole, row_fingerprint
from engine.features.store import JOURNAL_ENTITY, FeatureStore, StoreCorrupt, event_time_of

_CHUNK = 500


class Difference(StrEnum):
    """How a key differs."""

    LEFT_ONLY = "only on the left"
    RIGHT_ONLY = "only on the right"
    LEFT_NEWER = "newer on the left"
    RIGHT_NEWER = "newer on the right"
    OTHER_BYTES = "other bytes of the same moment"
    LEFT_CORRUPT = "corrupt on the left"
    RIGHT_CORRUPT = "corrupt on the right"
    BOTH_CORRUPT = "corrupt on both sides"


class Example(NamedTuple):
    """One key that differs."""

    key: bytes
    difference: Difference


@dataclass(slots=True)
class Comparison:
    """What came of it. keys: different keys looked at; differences: how many of each kind; examples: the first of them;
    schemas: rows by the fingerprint of their schema, counters left out, one side of each key; missing_schemas: how many
    recorded schemas a side lacks; repaired: rows and schemas copied; ordered: whether both stores gave their keys in
    order, so that one walk over both was enough."""

    keys: int = 0
    same: int = 0
    differences: Counter[Difference] = field(default_factory=Counter)
    examples: list[Example] = field(default_factory=list)
    schemas: Counter[str] = field(default_factory=Counter)
    missing_schemas: Counter[str] = field(default_factory=Counter)
    repaired: int = 0
    ordered: bool = True

    @property
    def equal(self) -> bool:
        """Whether both sides hold the same."""
        return not self.differences and not self.missing_schemas


def _rows(store: FeatureStore, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The rows of entities. What a store notes of its own counting is no other store's business."""
    own = b"{%b/" % JOURNAL_ENTITY.encode()
    return (row for row in store.scan(prefix) if not row[0].startswith(own))


class Comparer:
    """Compares two stores. examples_max: how many keys to name; repair: whether to copy the newer of two rows to the
    other side. A row that is missing on one side is copied there as well, also when it was erased there: erase it again
    on both sides first."""

    def __init__(
        self, left: FeatureStore, right: FeatureStore, *, examples_max: int = 20, repair: bool = False
    ) -> None:
        self._left, self._right = left, right
        self._examples_max, self._repair = examples_max, repair

    def run(self, prefix: bytes = b"") -> Iterator[Comparison]:
        """Compares all keys that start with `prefix`. Gives what came of it so far, over and over, and last of all the
        whole. Raises StoreError."""
        found = Comparison(ordered=_is_ordered(self._left, prefix) and _is_ordered(self._right, prefix))
        yield from (self._walk if found.ordered else self._look_up)(prefix, found)
        if not prefix:
            self._compare_schemas(found)
        yield found

    def _walk(self, prefix: bytes, found: Comparison) -> Iterator[Comparison]:
        """One walk over both stores, side by side."""
        left, right = _ordered(_rows(self._left, prefix)), _ordered(_rows(self._right, prefix))
        here, there = next(left, None), next(right, None)
        doubtful: list[bytes] = []
        while here is not None or there is not None:
            if there is None or (here is not None and here[0] < there[0]):
                assert here is not None
                doubtful.append(here[0])
                here = next(left, None)
            elif here is None or there[0] < here[0]:
                doubtful.append(there[0])
                there = next(right, None)
            else:
                if here[1] == there[1] and is_whole(here[1]):
                    _note_same(found, here[1])
                else:
                    doubtful.append(here[0])
                here, there = next(left, None), next(right, None)
            if len(doubtful) >= _CHUNK or (found.keys and found.keys % (20 * _CHUNK) == 0):
                self._settle(doubtful, found)
                doubtful = []
                yield found
        self._settle(doubtful, found)

    def _look_up(self, prefix: bytes, found: Comparison) -> Iterator[Comparison]:
        """Every key of the left is looked up on the right, and then the other way round for those that are missing."""
        for rows in _chunks(_rows(self._left, prefix)):
            others = self._right.read(list(rows))
            doubtful = []
            for (key, value), other in zip(rows.items(), others, strict=True):
                if value == other and is_whole(value):
                    _note_same(found, value)
                else:
                    doubtful.append(key)
            self._settle(doubtful, found)
            yield found
        for rows in _chunks(_rows(self._right, prefix)):
            others = self._left.read(list(rows))
            # A key that is on both sides was settled above.
            self._settle([key for key, other in zip(rows, others, strict=True) if other is None], found)
            yield found

    def _settle(self, keys: Sequence[bytes], found: Comparison) -> None:
        """Reads keys that seem to differ once more, and counts those that do."""
        if not keys:
            return
        copies: dict[str, list[tuple[bytes, bytes, int]]] = {"left": [], "right": []}
        for key, left, right in zip(keys, self._left.read(keys), self._right.read(keys), strict=True):
            if left is None and right is None:
                continue  # erased meanwhile
            difference = _difference(left, right)
            if difference is None:
                assert left is not None
                _note_same(found, left)
                continue
            found.keys += 1
            found.differences[difference] += 1
            if len(found.examples) < self._examples_max:
                found.examples.append(Example(key, difference))
            if self._repair:
                self._plan_copy(key, left, right, difference, copies)
        for side, rows in copies.items():
            if rows:
                store = self._left if side == "left" else self._right
                found.repaired += store.write(rows).written

    def _plan_copy(
        self,
        key: bytes,
        left: bytes | None,
        right: bytes | None,
        difference: Difference,
        copies: Mapping[str, list[tuple[bytes, bytes, int]]],
    ) -> None:
        """Notes the newer row for the other side. Bytes that are no row are removed first: they could seem newer."""
        to_left = difference in (Difference.RIGHT_ONLY, Difference.RIGHT_NEWER, Difference.LEFT_CORRUPT)
        if difference is Difference.OTHER_BYTES:
            assert left is not None and right is not None
            to_left = right > left  # the greater bytes win, as they do in every store
        source = right if to_left else left
        if difference is Difference.BOTH_CORRUPT or source is None or not is_whole(source):
            return
        if difference is Difference.LEFT_CORRUPT:
            self._left.delete([key])
        elif difference is Difference.RIGHT_CORRUPT:
            self._right.delete([key])
        copies["left" if to_left else "right"].append((key, source, event_time_of(source)))

    def _compare_schemas(self, found: Comparison) -> None:
        left, right = dict(self._left.schemas()), dict(self._right.schemas())
        for side, has, lacks, store in (("left", right, left, self._left), ("right", left, right, self._right)):
            missing = {fingerprint: canonical for fingerprint, canonical in has.items() if fingerprint not in lacks}
            if missing:
                found.missing_schemas[side] += len(missing)
            if self._repair:
                for fingerprint, canonical in missing.items():
                    store.put_schema(fingerprint, canonical)
                    found.repaired += 1


def _is_ordered(store: FeatureStore, prefix: bytes) -> bool:
    """Whether a store gives its keys in order: a hash table gives itself away within a few."""
    keys = [key for key, _ in islice(store.scan(prefix), _CHUNK)]
    return all(before < after for before, after in pairwise(keys))


def _ordered(rows: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    last = b""
    for row in rows:
        if row[0] <= last:
            raise StoreCorrupt("a store gave some of its keys in order and some not")
        last = row[0]
        yield row


def _chunks(rows: Iterator[tuple[bytes, bytes]]) -> Iterator[dict[bytes, bytes]]:
    while chunk := dict(islice(rows, _CHUNK)):
        yield chunk


def _note_same(found: Comparison, value: bytes) -> None:
    found.keys += 1
    found.same += 1
    if value[: len(STATE_MAGIC)] != STATE_MAGIC:
        try:
            found.schemas[row_fingerprint(value).hex()] += 1
        except RowError:
            found.schemas["none"] += 1


def _difference(left: bytes | None, right: bytes | None) -> Difference | None:
    """How two values differ; None when they do not. One of them at least is there."""
    left_bad = left is not None and not is_whole(left)
    right_bad = right is not None and not is_whole(right)
    if left_bad or right_bad:
        if left_bad and (right_bad or right is None):
            return Difference.BOTH_CORRUPT if right_bad else Difference.LEFT_CORRUPT
        return Difference.LEFT_CORRUPT if left_bad else Difference.RIGHT_CORRUPT
    if left is None:
        return Difference.RIGHT_ONLY
    if right is None:
        return Difference.LEFT_ONLY
    if left == right:
        return None
    before, after = event_time_of(left), event_time_of(right)
    if before == after:
        return Difference.OTHER_BYTES
    return Difference.LEFT_NEWER if before > after else Difference.RIGHT_NEWER
