"""Adding events to the state of one entity: exactly once each, in any order, within bounded memory.

The newest `EXACT_MAX` events are kept one by one. Older ones go to time buckets and to samples of ids, and from then on
an event that is not newer than the newest of those is refused as too late: nobody could tell whether it was counted
before. Events older than `KEEP_US` before the newest are of no use to any window and are dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from struct import Struct, error
from typing import NamedTuple

from engine.features.encoding import is_whole
from engine.features.velocity.buckets import BUCKETS_MAX, KEEP_US, fold
from engine.features.velocity.layout import CRC_BYTES, HEADER, SMALLEST_BYTES, Layout, refusal, seal
from engine.features.velocity.sketch import HEAD, ID, SKETCH_MAX, Sketch

EXACT_MAX = 512
HORIZON = Struct("<2q")
_NUMBER = Struct("<q")
_NUMBER_BYTES = 8


class Outcome(StrEnum):
    """What became of an event."""

    NEW = "new"  # it counts from now on
    DUPLICATE = "duplicate"  # it had been counted
    TOO_LATE = "too_late"  # it is older than all that is kept one by one, and may have been counted
    UNREADABLE = "unreadable"  # the state is corrupt or of unknown columns, and was left alone
    UNCOUNTED = "uncounted"  # it names no entity that has counters


class Entry(NamedTuple):
    """An event as one view keeps it: when, the hash of its id, and its numbers as `Layout.event` packs them."""

    time_us: int
    id: int
    row: bytes


@dataclass(slots=True)
class State:
    """The state of one entity, taken apart. horizon: time and hash of the newest event in the buckets, if any."""

    stamp: int = 0
    rows: bytes = b""
    horizon: tuple[int, int] | None = None
    buckets: bytes = b""
    sketches: list[Sketch] = field(default_factory=list)


def max_bytes(layout: Layout) -> int:
    """The most that a state can take."""
    sketches = len(layout.distinct) * (HEAD.size + SKETCH_MAX * ID.size)
    rows = EXACT_MAX * layout.event.size + BUCKETS_MAX * layout.bucket.size
    return HEADER.size + rows + HORIZON.size + sketches + CRC_BYTES


def decode(value: bytes, layout: Layout) -> State:
    """Take a state apart. Raises RowCorrupt, RowOtherSchema."""
    if len(value) < SMALLEST_BYTES or not is_whole(value):
        raise refusal(value, layout)
    prefix, length, stamp, events, buckets = HEADER.unpack_from(value)
    if prefix != layout.prefix or length != len(value):
        raise refusal(value, layout)
    return parse(value, layout, stamp, events, buckets)


def parse(value: bytes, layout: Layout, stamp: int, events: int, buckets: int) -> State:
    """The rest of `decode`, once the checksum and the header are known to be good. Raises RowCorrupt."""
    end, at = len(value) - CRC_BYTES, HEADER.size + events * layout.event.size
    state = State(stamp, value[HEADER.size : at])
    if buckets:
        try:
            state.horizon = HORIZON.unpack_from(value, at)
            at += HORIZON.size
            state.buckets = value[at : at + buckets * layout.bucket.size]
            at += buckets * layout.bucket.size
            for _, window_us in layout.distinct:
                count, complete, admitted, since_us = HEAD.unpack_from(value, at)
                at += HEAD.size
                state.sketches.append(Sketch(window_us, complete, admitted, since_us, value[at : at + count * ID.size]))
                at += count * ID.size
        except error as e:
            raise refusal(value, layout) from e
    if at != end or not events:
        raise refusal(value, layout)
    return state


def encode(state: State, layout: Layout) -> bytes:
    """The value that a store keeps."""
    body = state.rows
    if state.horizon is not None:
        sketches = (sketch.pack() for sketch in state.sketches)
        body = b"".join((body, HORIZON.pack(*state.horizon), state.buckets, *sketches))
    events, buckets = len(state.rows) // layout.event.size, len(state.buckets) // layout.bucket.size
    return seal(layout, state.stamp, events, buckets, body)


def add_events(held: bytes | None, entries: Sequence[Entry], layout: Layout) -> tuple[bytes | None, list[Outcome]]:
    """A state with more events in it, or None when none of them is new; and what became of each, in order.

    Pure; a second time, with its own result, every event is a DUPLICATE or TOO_LATE. Raises RowCorrupt,
    RowOtherSchema.
    """
    state = State() if held is None else decode(held, layout)
    size = layout.event.size
    newest_us = max(entry.time_us for entry in entries)
    if state.rows:
        newest_us = max(newest_us, _time_at(state.rows, len(state.rows) - size))
    outcomes = [Outcome.DUPLICATE] * len(entries)
    changed = False
    # In the order of time, so that those of one batch never come too late for one another.
    for place in sorted(range(len(entries)), key=entries.__getitem__) if len(entries) > 1 else (0,):
        outcomes[place] = outcome = _add(state, entries[place], size, newest_us)
        if outcome is Outcome.NEW:
            changed = True
            if state.sketches:
                _sample(state, (entries[place].row,), layout, newest_us)
            if len(state.rows) > 2 * EXACT_MAX * size:
                _shrink(state, layout, newest_us)
    if not changed:
        return None, outcomes
    _shrink(state, layout, newest_us)
    state.stamp = max(state.stamp + 1, newest_us)
    return encode(state, layout), outcomes


def _time_at(rows: bytes, at: int) -> int:
    time_us: int = _NUMBER.unpack_from(rows, at)[0]
    return time_us


def _add(state: State, entry: Entry, size: int, newest_us: int) -> Outcome:
    """Put one event in its place, unless it is there or cannot be known not to have been."""
    time_us, hashed, row = entry
    rows = state.rows
    if rows and _has(rows, hashed, size):
        return Outcome.DUPLICATE
    if time_us < newest_us - KEEP_US or (state.horizon is not None and (time_us, hashed) <= state.horizon):
        return Outcome.TOO_LATE
    if not rows or _time_at(rows, len(rows) - size) < time_us:
        state.rows = rows + row
        return Outcome.NEW
    low, high = 0, len(rows) // size
    while low < high:
        middle = (low + high) // 2
        end = (middle + 1) * size
        if (_time_at(rows, middle * size), _time_at(rows, end - _NUMBER_BYTES)) < (time_us, hashed):
            low = middle + 1
        else:
            high = middle
    state.rows = rows[: low * size] + row + rows[low * size :]
    return Outcome.NEW


def _has(rows: bytes, hashed: int, size: int) -> bool:
    """Whether an event with this hash is among them: its bytes, and in the place of an id."""
    sought, at = _NUMBER.pack(hashed), -1
    while (at := rows.find(sought, at + 1)) >= 0:
        if at % size == size - _NUMBER_BYTES:
            return True
    return False


def _sample(state: State, rows: Iterable[bytes], layout: Layout, newest_us: int) -> None:
    """Show the other entities of these events to the samples."""
    numbers = [layout.event.unpack(row) for row in rows]
    first = 1 + len(layout.amounts)
    for sketch, (entity, _) in zip(state.sketches, layout.distinct, strict=True):
        column = first + layout.others.index(entity)
        sketch.add([(row[0], row[column]) for row in numbers], newest_us)


def _shrink(state: State, layout: Layout, newest_us: int) -> None:
    """Drop what no window can reach, and move what is too much to the buckets."""
    size, floor_us = layout.event.size, newest_us - KEEP_US
    if state.horizon is not None and state.horizon[0] < floor_us:
        state.horizon, state.buckets, state.sketches = None, b"", []
    rows, at = state.rows, 0
    while _time_at(rows, at) < floor_us:  # the newest never is
        at += size
    excess = len(rows) // size - at // size - EXACT_MAX
    if excess > 0:
        if state.horizon is None:
            state.sketches = [Sketch(window_us) for _, window_us in layout.distinct]
            everything = (rows[i : i + size] for i in range(at, len(rows), size))
            _sample(state, everything, layout, newest_us)
        end = at + excess * size
        evicted = list(layout.event.iter_unpack(rows[at:end]))
        state.horizon = evicted[-1][0], evicted[-1][-1]
        columns = 1 + len(layout.amounts)
        state.buckets = fold(state.buckets, layout.bucket, (row[:columns] for row in evicted), newest_us)
        at = end
    state.rows = rows[at:]
