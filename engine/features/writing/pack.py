"""Packs many rows of one schema at once: the same bytes as `RowEncoder` writes, for numbers that are clean already."""

from __future__ import annotations

from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from engine.domain.facts import FloatArray
from engine.features.encoding import RowEncoder, RowSchema
from engine.features.store import EVENT_TIME_OFFSET

_PRESENCE_OFFSET = 24
_CRC_BYTES = 4


class RowPacker:
    """Packs rows of one schema without text fields, which therefore all have one length."""

    def __init__(self, schema: RowSchema) -> None:
        """Raises ValueError for a schema with text fields."""
        if schema.strings:
            raise ValueError(f"{schema.view}: rows with text differ in length")
        self.count = len(schema.numeric)
        # A row in which every field is NULL: its header and length are those of every row of the schema.
        self._empty = RowEncoder(schema).encode({}, 0)
        self._presence_bytes = 8 * ((self.count + 63) // 64)
        start = _PRESENCE_OFFSET + self._presence_bytes
        self._layout = np.dtype(
            {
                "names": ["event_time", "presence", "numbers", "crc"],
                "formats": ["<i8", (np.uint8, self._presence_bytes), ("<f8", self.count), "<u4"],
                "offsets": [EVENT_TIME_OFFSET, _PRESENCE_OFFSET, start, start + 8 * self.count],
                "itemsize": len(self._empty),
            }
        )

    def pack(self, numbers: FloatArray, event_times_us: NDArray[np.int64]) -> list[bytes]:
        """One value a row. numbers: (rows, fields), in the order of the slots, NaN for NULL; event_times_us:
        (rows,)."""
        rows, length = len(numbers), len(self._empty)
        buffer = bytearray(self._empty * rows)
        block = np.frombuffer(buffer, dtype=self._layout)
        present = ~np.isnan(numbers)
        bits = np.packbits(present, axis=1, bitorder="little")
        block["presence"][:, : bits.shape[1]] = bits
        block["event_time"] = event_times_us
        # One NaN for all that is absent, so that the same row has the same bytes whoever wrote it.
        block["numbers"] = np.where(present, numbers, np.nan)
        body = memoryview(buffer)
        starts = range(0, rows * length, length)
        block["crc"] = [crc32(body[start : start + length - _CRC_BYTES]) for start in starts]
        raw = bytes(buffer)
        return [raw[start : start + length] for start in starts]
