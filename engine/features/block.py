"""How the rows of several applications of one flow are read at once.

    application 1: row of view 1 | row of view 2 | ...      -> one line of words
    application 2: row of view 1 | row of view 2 | ...      -> one line of words

A row is a whole number of 8-byte words but for its checksum of 4 bytes, so rows joined with 4 bytes between them are
lines of words, and what stands in the same place of every application is a column. Only rows of a fixed length take
part: those without texts.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from engine.domain.enums import FeatureStatus
from engine.domain.facts import UNNAMED, ByteArray, LastGood, Row
from engine.features.encoding import CRC_RESIDUE

if TYPE_CHECKING:
    from engine.features.encoding import RowDecoder

# What is no row: besides its status, an entity that is not named, bytes that are no row of the view's own schema, a row
# read earlier.
UNNAMED_ROW, OTHER_BYTES, LAST_GOOD_ROW = 7, 8, 9
_PRESENT, _NOT_FOUND, _UNAVAILABLE = FeatureStatus.PRESENT, FeatureStatus.NOT_FOUND, FeatureStatus.UNAVAILABLE
# By kind; there is none of number zero. What is to be looked at again is called PRESENT until then.
ROW_STATUSES = (_PRESENT, *FeatureStatus, _NOT_FOUND, _PRESENT, _PRESENT)
ROW_STATUS_OF = np.array(ROW_STATUSES, np.uint8)
_ONE = bytes([_PRESENT])
# Between two rows.
_PAD = bytes(4)
# Words before the presence: magic, fingerprint and length; event time.
_HEAD_WORDS, _TIME_WORD, _FIXED_WORDS = 2, 2, 3


class _View(Protocol):
    """What of a view is needed here."""

    @property
    def decoder(self) -> RowDecoder:
        """The reader of its rows."""
        ...

    @property
    def start(self) -> int:
        """The first slot."""
        ...

    @property
    def max_age_us_min(self) -> int:
        """Up to which age nothing is stale."""
        ...


class Block(NamedTuple):
    """The words of one application's rows.

    lengths: of each row, bytes; blanks: for each view a row of NaN, to hold the place of one that is not there; words:
    of all; heads, times, presences, numbers: which words those are, numbers in the order of slots from 0; head: the
    heads as they must be; all_present: the presences without NULL; bits: which bit of those each number's is;
    presence_of: by view, which of those words are its own; view_of: the view of each number; max_age_us: by view, up
    to which nothing is stale.
    """

    lengths: list[int]
    blanks: list[bytes]
    words: int
    heads: NDArray[np.intp]
    head: bytes
    times: NDArray[np.intp]
    presences: NDArray[np.intp]
    all_present: bytes
    bits: NDArray[np.intp]
    presence_of: tuple[slice, ...]
    view_of: NDArray[np.intp]
    numbers: NDArray[np.intp]
    max_age_us: NDArray[np.int64]

    def lines(self, rows: list[bytes]) -> NDArray[np.uint64]:
        """The words of rows that are of the lengths they should be: one line an application."""
        joined = _PAD.join([*rows, b""])
        return np.frombuffer(joined, np.uint64).reshape(-1, self.words)


def is_sound(rows: list[bytes]) -> list[bool] | None:
    """Which rows' checksums hold; None when all do."""
    sums = list(map(crc32, rows))
    return None if sums.count(CRC_RESIDUE) == len(sums) else [found == CRC_RESIDUE for found in sums]


def set_aside(block: Block, given: list[Row], lengths: list[int]) -> ByteArray:
    """Puts blanks in the place of what is no row of its view's length. Gives what each was: PRESENT for a row, the
    status of what is none, or a code of this file's."""
    views = len(block.lengths)
    kinds = bytearray(_ONE * len(given))
    for place, (row, length) in enumerate(zip(given, lengths, strict=True)):
        if row is None:
            kinds[place] = _NOT_FOUND
        elif type(row) is bytes:
            if len(row) == length:
                continue
            kinds[place] = OTHER_BYTES
        elif row is UNNAMED:
            kinds[place] = UNNAMED_ROW
        else:
            kinds[place] = LAST_GOOD_ROW if type(row) is LastGood else _UNAVAILABLE
        given[place] = block.blanks[place % views]
    return np.frombuffer(kinds, np.uint8)


def make_block(views: Sequence[_View]) -> Block | None:
    """The block of a flow's views; None where they have rows without a fixed length, or there are none."""
    if not views or any(view.decoder.length is None for view in views):
        return None
    heads: list[int] = []
    times: list[int] = []
    presences: list[int] = []
    numbers: dict[int, int] = {}
    bits: dict[int, int] = {}
    presence_of: list[slice] = []
    lengths, blanks, all_present, at = [], [], b"", 0
    for view in views:
        decoder = view.decoder
        lengths.append(decoder.length or 0)
        heads += range(at, at + _HEAD_WORDS)
        times.append(at + _TIME_WORD)
        first = at + _FIXED_WORDS + decoder.words
        presence_of.append(slice(len(presences), len(presences) + decoder.words))
        bits |= {view.start + n: 64 * len(presences) + n for n in range(decoder.count)}
        presences += range(at + _FIXED_WORDS, first)
        numbers |= {view.start + n: first + n for n in range(decoder.count)}
        present = decoder.all_present.to_bytes(8 * decoder.words, "little")
        all_present += present
        body = decoder.head + bytes(8) + present + struct.pack(f"<{decoder.count}d", *[float("nan")] * decoder.count)
        blanks.append(body + crc32(body).to_bytes(4, "little"))
        at = first + decoder.count + 1
    if list(numbers) != list(range(len(numbers))):
        return None
    return Block(
        lengths=lengths,
        blanks=blanks,
        words=at,
        heads=np.array(heads, np.intp),
        head=b"".join(view.decoder.head for view in views),
        times=np.array(times, np.intp),
        presences=np.array(presences, np.intp),
        all_present=all_present,
        bits=np.array(list(bits.values()), np.intp),
        presence_of=tuple(presence_of),
        view_of=np.repeat(np.arange(len(views)), [view.decoder.count for view in views]),
        numbers=np.array(list(numbers.values()), np.intp),
        max_age_us=np.array([view.max_age_us_min for view in views], np.int64),
    )
