"""How the state of one entity's counters becomes one value in a store: the columns, and where everything stands.

    offset  bytes          what
    0       4              "AsV" and the version of this layout (1)
    4       8              fingerprint of the columns
    12      4              length of the whole value
    16      8              stamp: rises with every change, and is never before the newest event
    24      4, 4           how many events are kept one by one (n), how many time buckets there are (b)
    32      8 * n * (2+A+O)  the newest events, by time and then by hash: time, A amounts, O hashes of other entities
                           (0: not named), hash of the event's own id
    where b is not 0, which says that there were more events than are kept one by one:
            8, 8           time and hash of the newest event that is no longer kept by itself
            8 * b * (2+A)  the buckets, by time: mark, count, A sums (`buckets.py`)
            ...            for each pair of `distinct`: 8 * 4, 16 * k (`sketch.py`)
    end-4   4              CRC-32 of all before it

All little-endian; all but the header are signed 64-bit numbers, times in microseconds since 1970 UTC, amounts in
ten-thousandths. The header and the checksum are those of a row (`engine.features.encoding`), so that every store
tells the later of two states as it tells the newer of two rows.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from functools import cached_property
from zlib import crc32

from engine.features.encoding import STATE_MAGIC, RowCorrupt, RowError, RowOtherSchema, is_whole
from engine.features.row_schema import fingerprint_of

_LAYOUT = 1
HEADER = struct.Struct("<12sIqII")
_CRC = struct.Struct("<I")
CRC_BYTES = 4
# The smallest state: one event with nothing but its time and its id.
SMALLEST_BYTES = HEADER.size + 16 + CRC_BYTES
_PREFIX_BYTES = 12


@dataclass(frozen=True)
class Layout:
    """The columns of the states of one view.

    amounts: those that are summed; distinct: (entity, window in microseconds) of each distinct count; both in order,
    each once. Raises ValueError.
    """

    view: str
    entity: str
    amounts: tuple[str, ...]
    distinct: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        if not self.view or not self.entity:
            raise ValueError("the columns of a state belong to a view of an entity")
        if list(self.amounts) != sorted(set(self.amounts)) or list(self.distinct) != sorted(set(self.distinct)):
            raise ValueError(f"{self.view}: columns must stand in order, each once")

    @cached_property
    def others(self) -> tuple[str, ...]:
        """The entities whose ids are kept with each event."""
        return tuple(dict.fromkeys(entity for entity, _ in self.distinct))

    @cached_property
    def canonical(self) -> bytes:
        """The one JSON form, from which the fingerprint is taken."""
        tree = {
            "amounts": self.amounts,
            "distinct": self.distinct,
            "entity": self.entity,
            "kind": "velocity",
            "layout": _LAYOUT,
            "view": self.view,
        }
        return json.dumps(tree, separators=(",", ":")).encode("ascii")

    @cached_property
    def fingerprint(self) -> bytes:
        """Eight bytes that no other layout has."""
        return fingerprint_of(self.canonical)

    @cached_property
    def prefix(self) -> bytes:
        """What every state of this layout begins with."""
        return STATE_MAGIC + self.fingerprint

    @cached_property
    def columns(self) -> int:
        """Numbers an event: its time, amounts, other entities, its id."""
        return 2 + len(self.amounts) + len(self.others)

    @cached_property
    def event(self) -> struct.Struct:
        """One event."""
        return struct.Struct(f"<{self.columns}q")

    @cached_property
    def bucket(self) -> struct.Struct:
        """One time bucket."""
        return struct.Struct(f"<{2 + len(self.amounts)}q")

    @classmethod
    def parse(cls, canonical: bytes) -> Layout:
        """A layout from its canonical form. Raises ValueError."""
        try:
            tree = json.loads(canonical)
            if tree["kind"] != "velocity" or tree["layout"] != _LAYOUT:
                raise ValueError("no layout of states that this version knows")
            distinct = tuple((str(entity), int(window_us)) for entity, window_us in tree["distinct"])
            return cls(str(tree["view"]), str(tree["entity"]), tuple(map(str, tree["amounts"])), distinct)
        except (KeyError, TypeError) as e:
            raise ValueError(f"no layout of states: {e!r}") from e


def is_state(value: bytes) -> bool:
    """Whether a value says that it is a state of counters, not a row."""
    return value[: len(STATE_MAGIC)] == STATE_MAGIC


def state_fingerprint(value: bytes) -> bytes:
    """The fingerprint of the layout that a state was written with. Raises RowCorrupt unless the state is whole."""
    if len(value) < SMALLEST_BYTES or not is_whole(value):
        raise RowCorrupt(f"a state of {len(value)} bytes is too short or fails its checksum")
    if not is_state(value):
        raise RowCorrupt("bytes with a good checksum are no state of counters, or one of a newer layout")
    if HEADER.unpack_from(value)[1] != len(value):
        raise RowCorrupt("a state is not as long as it says")
    return value[len(STATE_MAGIC) : _PREFIX_BYTES]


def refusal(value: bytes, layout: Layout) -> RowError:
    """Why a state cannot be read with this layout."""
    try:
        found = state_fingerprint(value)
    except RowCorrupt as e:
        return e
    if found != layout.fingerprint:
        return RowOtherSchema(found, f"a state of {found.hex()} where {layout.fingerprint.hex()} was expected")
    return RowCorrupt("a state does not hold what its header says")


def seal(layout: Layout, stamp: int, events: int, buckets: int, body: bytes) -> bytes:
    """A whole state."""
    value = HEADER.pack(layout.prefix, HEADER.size + len(body) + CRC_BYTES, stamp, events, buckets) + body
    return value + _CRC.pack(crc32(value))
