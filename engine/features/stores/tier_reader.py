"""Reading from a fast store, and from a durable one what the fast one lacks, within one deadline.

    the fast store, for its share of the time -> what it lacks, from the durable store -> copies for the fast store

What the fast store lacks is what it has no row for, what it could not give, what is marked as out of date there
(`TierKeeper`) and what makes no sense: a row whose checksum fails is none. A key that neither had a moment ago is not
looked for again in the durable store, while the fast one says that it still has none.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from zlib import crc32

from engine.domain.facts import UNREAD, NoRow
from engine.errors import StoreError
from engine.features.encoding import is_whole
from engine.features.store import FeatureStore, StoreTimeout
from engine.features.stores.missing import MissingKeys
from engine.features.stores.partial import PartialRead
from engine.features.stores.tier_keeper import TierKeeper

# What `is_whole` looks for, in the form that costs least for many rows: here, of no bytes followed by their CRC-32.
_WHOLE = {crc32(bytes(4))}


class TierReader:
    """The reads of one pair of stores. fast_timeout_ms: what the fast store may take, and half of the time left at
    most, so that something is left for the durable one."""

    def __init__(
        self,
        fast: FeatureStore,
        durable: FeatureStore,
        keeper: TierKeeper,
        missing: MissingKeys,
        fast_timeout_ms: float,
    ) -> None:
        self._fast, self._durable, self._keeper, self._missing = fast, durable, keeper, missing
        self._fast_timeout_s = fast_timeout_ms / 1000

    def read(self, keys: Sequence[bytes], deadline_s: float | None = None) -> list[bytes | None]:
        """See `TieredStore.read`."""
        began_s = time.monotonic()
        fast_end_s = began_s + self._fast_timeout_s
        if deadline_s is not None:
            fast_end_s = min(fast_end_s, (began_s + deadline_s) / 2)
        epoch = self._keeper.epoch
        found: list[bytes | NoRow | None]
        try:
            found = (
                self._read_unmarked(keys, fast_end_s) if self._keeper.alert else [*self._fast.read(keys, fast_end_s)]
            )
        except PartialRead as error:
            found = [*error.rows]
        except StoreError:
            found = [UNREAD] * len(keys)
        try:
            if set(map(crc32, found)) == _WHOLE:  # type: ignore[arg-type]
                return found  # type: ignore[return-value]
        except TypeError:
            pass  # not every one of them is a row
        lacking = [i for i, row in enumerate(found) if type(row) is not bytes or not is_whole(row)]
        if lacking:
            self._complete(keys, found, lacking, began_s, epoch, deadline_s)
        return found  # type: ignore[return-value]

    def _read_unmarked(self, keys: Sequence[bytes], end_s: float) -> list[bytes | NoRow | None]:
        """What the fast store has of keys that it can be asked for."""
        self._keeper.resume()
        found: list[bytes | NoRow | None] = [UNREAD] * len(keys)
        fit = [i for i, key in enumerate(keys) if not self._keeper.marked(key)]
        if fit:
            rows: Sequence[bytes | NoRow | None]
            try:
                rows = self._fast.read([keys[i] for i in fit], end_s)
            except PartialRead as error:
                rows = error.rows
            for i, row in zip(fit, rows, strict=True):
                found[i] = row
        return found

    def _complete(
        self,
        keys: Sequence[bytes],
        found: list[bytes | NoRow | None],
        lacking: Sequence[int],
        began_s: float,
        epoch: int,
        deadline_s: float | None,
    ) -> None:
        """Puts what the durable store has into the gaps."""
        keeper, missing = self._keeper, self._missing
        ask: list[int] = []
        corrupt: list[bytes] = []
        for i in lacking:
            if found[i] is not None:
                if type(found[i]) is bytes:
                    corrupt.append(keys[i])
                    found[i] = UNREAD
                ask.append(i)
            elif keys[i] not in missing:
                ask.append(i)
        if len(ask) < len(lacking):
            keeper.count("known_missing", len(lacking) - len(ask))
        if corrupt:
            keeper.count("corrupt_in_fast", len(corrupt))
            keeper.mark(corrupt)
        if not ask:
            return
        keeper.count("asked_durable", len(ask))
        error: StoreError | None = None
        rows: Sequence[bytes | NoRow | None]
        try:
            if deadline_s is not None and time.monotonic() >= deadline_s:
                raise StoreTimeout("no time left to ask the durable store")
            rows = self._durable.read([keys[i] for i in ask], deadline_s)
        except PartialRead as failure:
            error, rows = failure, failure.rows
        except StoreError as failure:
            error, rows = failure, [UNREAD] * len(ask)
        refill: list[tuple[bytes, bytes]] = []
        nowhere: list[bytes] = []
        for i, row in zip(ask, rows, strict=True):
            if found[i] is None:
                # The fast store answered that it has none.
                if type(row) is bytes and is_whole(row):
                    refill.append((keys[i], row))
                elif row is None:
                    nowhere.append(keys[i])
            found[i] = row
        if refill:
            keeper.refill(epoch, began_s, refill)
        if nowhere:
            missing.remember(nowhere)
        if error is not None:
            if all(row is UNREAD for row in found):
                raise error
            raise PartialRead(f"the fast store lacks rows and the durable one failed: {error}", found) from error
