"""States of other columns read by name, after the counters of a view have changed; and states described for people.

What a state did not keep, it does not know: an amount or an entity that is new to it counts from the change on, and a
counter of it is complete one window later. What is no longer counted is left out. No number is ever read as another.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from struct import Struct

from engine.features.encoding import RowOtherSchema
from engine.features.row_schema import fingerprint_of
from engine.features.velocity.layout import Layout, state_fingerprint
from engine.features.velocity.sketch import Sketch
from engine.features.velocity.state import State, decode, encode

_NEVER = -1


def translate(value: bytes, source: Layout, target: Layout) -> bytes:
    """A state of the columns `source` as one of the columns `target`, with the same stamp.

    Raises RowCorrupt, and RowOtherSchema when it is of another view or entity.
    """
    if (source.view, source.entity) != (target.view, target.entity):
        raise RowOtherSchema(source.fingerprint, f"a state of {source.view}, not of {target.view}")
    state = decode(value, source)
    amounts = [_place(source.amounts, name, 1) for name in target.amounts]
    others = [_place(source.others, name, 1 + len(source.amounts)) for name in target.others]
    moved = State(
        state.stamp,
        _moved(state.rows, source.event, target.event, [0, *amounts, *others, source.columns - 1]),
        state.horizon,
        _moved(state.buckets, source.bucket, target.bucket, [0, 1, *(a if a == _NEVER else a + 1 for a in amounts)]),
    )
    if state.horizon is not None:
        newest_us = source.event.unpack_from(state.rows, len(state.rows) - source.event.size)[0]
        held = dict(zip(source.distinct, state.sketches, strict=True))
        moved.sketches = [_sketch(held, entity, window_us, newest_us) for entity, window_us in target.distinct]
    return encode(moved, target)


def _place(names: tuple[str, ...], name: str, first: int) -> int:
    return first + names.index(name) if name in names else _NEVER


def _moved(rows: bytes, source: Struct, target: Struct, places: list[int]) -> bytes:
    return b"".join(
        target.pack(*(0 if place == _NEVER else row[place] for place in places)) for row in source.iter_unpack(rows)
    )


def _sketch(held: dict[tuple[str, int], Sketch], entity: str, window_us: int, newest_us: int) -> Sketch:
    """The sample for a pair of entity and window: the held one of the shortest window that holds it, else that of the
    longest, which does not reach as far back, else an empty one."""
    lengths = sorted(length for name, length in held if name == entity)
    if not lengths:
        return Sketch(window_us)
    found = held[entity, next((length for length in lengths if length >= window_us), lengths[-1])]
    sketch = Sketch(window_us, found.complete, found.admitted, found.since_us, found.rows)
    sketch.add((), newest_us)
    return sketch


@dataclass(frozen=True, slots=True)
class DescribedState:
    """What a state is. Times in microseconds since 1970 UTC.

    events: those kept one by one, from `oldest_us` to `newest_us`; bucketed_until_us: the time of the newest event
    that is kept in buckets only, None when there is none.
    """

    view: str
    entity: str
    stamp: int
    events: int
    oldest_us: int
    newest_us: int
    bucketed_until_us: int | None
    bytes: int


def describe_state(value: bytes, canonicals: Iterable[bytes]) -> DescribedState:
    """What a state is, given the canonical forms of the layouts that it may have. Raises RowCorrupt, RowOtherSchema."""
    fingerprint = state_fingerprint(value)
    canonical = next((c for c in canonicals if fingerprint_of(c) == fingerprint), None)
    if canonical is None:
        raise RowOtherSchema(fingerprint, f"the layout {fingerprint.hex()} is not recorded")
    try:
        layout = Layout.parse(canonical)
    except ValueError as e:
        raise RowOtherSchema(fingerprint, f"what is recorded under {fingerprint.hex()} is no layout: {e}") from e
    state = decode(value, layout)
    times = [row[0] for row in layout.event.iter_unpack(state.rows)]
    until_us = None if state.horizon is None else state.horizon[0]
    return DescribedState(
        layout.view, layout.entity, state.stamp, len(times), times[0], times[-1], until_us, len(value)
    )
