"""A read of which a part succeeded: what was had need not be lost with what was not."""

from __future__ import annotations

from collections.abc import Sequence

from engine.domain.facts import NoRow
from engine.features.store import StoreUnavailable


class PartialRead(StoreUnavailable):
    """Some keys were read and some could not be.

    rows: in the order of the keys: bytes, None where the store has no row, UNREAD where it could not be asked. Who
    takes no partial answer treats it as the StoreUnavailable that it is; the cause says what failed.
    """

    def __init__(self, message: str, rows: Sequence[bytes | NoRow | None]) -> None:
        self.rows = list(rows)
        super().__init__(message)
