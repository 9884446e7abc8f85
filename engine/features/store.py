"""What every feature store can do, the keys of its rows, and the ways it fails.

A store keeps one value under one key: an encoded row (`engine.features.encoding`) of one view of one entity. The
value's own header holds its event time, so that a store can tell the newer of two rows wherever they lie.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from engine.errors import StoreError

# LMDB takes keys up to 511 bytes; the rest is for the names of entity and view.
MAX_ENTITY_ID_BYTES = 256

# The entity of the rows in which the engine notes up to where a journal's events are counted in this store.
JOURNAL_ENTITY = "assay_journal"

# Where a value's header holds its event time, microseconds since 1970 UTC, signed, little-endian.
EVENT_TIME_OFFSET = 16
_EVENT_TIME = struct.Struct("<q")

_NAME = re.compile(r"[a-z][a-z0-9_.]{0,63}")


class StoreTimeout(StoreError):
    """The store did not answer in time."""


class StoreUnavailable(StoreError):
    """The store cannot be reached, is closed, is full or refused."""


class StoreCorrupt(StoreError):
    """The store's own files or answers make no sense."""


class Row(NamedTuple):
    """One row to write: where, what and when it was true (microseconds since 1970, UTC)."""

    key: bytes
    value: bytes
    event_time_us: int


# What becomes of a held value (None: there is none): the value to put in its place, or None to leave all as it is.
# Pure, and harmless when it meets its own result: a store may call it again, with what another writer put there.
Change = Callable[[bytes | None], bytes | None]


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What became of a write: rows now in the store, and rows left out because the store held a newer or the same."""

    written: int = 0
    ignored_older: int = 0


@runtime_checkable
class FeatureStore(Protocol):
    """One store of rows. Every method may be called from several threads at once.

    Whatever goes wrong is raised as a `StoreError`: `StoreTimeout`, `StoreUnavailable` or `StoreCorrupt`. No driver's
    own exception comes through.
    """

    @property
    def name(self) -> str:
        """The store's name in records and metrics, for example "embedded"."""

    def read(self, keys: Sequence[bytes], deadline_s: float | None = None) -> list[bytes | None]:
        """The values under `keys`, in their order, None where there is none, in one round trip.

        deadline_s: the moment on `time.monotonic()` by which the answer must be there; None waits as long as the
        store's own limit. A moment, not a span, so that stores behind one another share it.
        """

    def write(self, rows: Iterable[tuple[bytes, bytes, int]], *, ttl_s: int | None = None) -> WriteResult:
        """Put (key, value, event_time_us) rows in. The newer event time wins.

        ttl_s: how long the store need keep the rows; one that cannot forget by itself keeps them longer.

        Rows may come twice and in any order: of two rows with the same event time the one with the greater bytes
        stays, in every store, so that the outcome never depends on the order of arrival. A correction therefore
        needs a newer event time. What was written is durable when the call returns, as far as the store promises.
        A failure may leave the first rows written; writing all again is harmless.

        Raises ValueError when a value's header does not hold its event time (`check_event_time`).
        """

    def update(
        self, changes: Sequence[tuple[bytes, Change]], *, ttl_s: int | None = None, deadline_s: float | None = None
    ) -> list[bytes | None]:
        """Read, change and write the value under each key: atomic for each key, whoever else updates it meanwhile.

        A key may stand several times; its changes are made in their order. Gives the values that the keys hold after
        their change, in the order of `changes`. New values have a header like every other (`check_event_time` does
        not apply: the stamp in it is the change's own business, and must rise with every change, so that the later
        of two values is known wherever they lie). ttl_s, deadline_s: as for `write` and `read`.

        A failure may leave some changes made; making all again is harmless.
        """

    def delete(self, keys: Sequence[bytes]) -> int:
        """Remove the rows under these keys. Gives how many there were."""

    def delete_entity(self, entity: str, entity_id: str) -> int:
        """Remove every row of one entity, whatever its view. Gives how many there were.

        What was removed may stay away: a store may ignore rows that are written later with an event time that is not
        later than those removed.
        """

    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """All (key, value) pairs whose key starts with `prefix`, in the order of the keys where the store has one.

        For administration and comparison, not for decisions: rows written meanwhile may or may not be seen.
        """

    def put_schema(self, fingerprint: bytes, canonical: bytes) -> None:
        """Keep a row schema's canonical form, so that its rows can be read by name for ever. Harmless when repeated."""

    def get_schema(self, fingerprint: bytes) -> bytes | None:
        """The canonical form kept under a fingerprint."""

    def schemas(self) -> Iterator[tuple[bytes, bytes]]:
        """All (fingerprint, canonical form) pairs kept, in no order."""

    def ping(self) -> None:
        """Raise a `StoreError` if the store cannot serve."""

    def close(self) -> None:
        """Let go of everything. Harmless when repeated; every other call fails from then on."""


def event_time_of(value: bytes) -> int:
    """The event time in a value's header, whatever else it holds; older than all others for bytes without a header."""
    if len(value) < EVENT_TIME_OFFSET + _EVENT_TIME.size:
        return -(2**63)
    event_time_us: int = _EVENT_TIME.unpack_from(value, EVENT_TIME_OFFSET)[0]
    return event_time_us


def check_event_time(value: bytes, event_time_us: int) -> None:
    """Raise ValueError unless the value's header holds this event time: stores compare rows by their headers."""
    if len(value) < EVENT_TIME_OFFSET + _EVENT_TIME.size or event_time_of(value) != event_time_us:
        raise ValueError("a row's event time must be the one in its header")


def entity_prefix(entity: str, entity_id: str) -> bytes:
    """What the keys of all rows of one entity start with.

    The braces make it a Redis Cluster hash tag: all rows of an entity are on one node, so one MGET reads them; in an
    ordered store they stand side by side; a wide store takes what is between them as its partition.

    Raises ValueError when the id is empty or longer than `MAX_ENTITY_ID_BYTES` in UTF-8.
    """
    raw = entity_id.encode()
    if not raw or len(raw) > MAX_ENTITY_ID_BYTES:
        raise ValueError(f"an id of {entity} must have 1 to {MAX_ENTITY_ID_BYTES} bytes in UTF-8, not {len(raw)}")
    return b"{%b/%b}" % (entity.encode(), raw)


def row_key(entity: str, entity_id: str, view: str) -> bytes:
    """The key of one row: `{entity/id}view`. Raises ValueError as `entity_prefix` does."""
    return entity_prefix(entity, entity_id) + view.encode()


def key_maker(entity: str, view: str) -> Callable[[str], bytes]:
    """`row_key` with entity and view fixed and checked once, for the hot path.

    Raises ValueError for a name that is no name (`[a-z][a-z0-9_.]*`, at most 64 characters).
    """
    for name in (entity, view):
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of an entity or view")
    head, tail = b"{%b/" % entity.encode(), b"}%b" % view.encode()

    def make(entity_id: str) -> bytes:
        raw = entity_id.encode()
        if not 0 < len(raw) <= MAX_ENTITY_ID_BYTES:
            raise ValueError(f"an id of {entity} must have 1 to {MAX_ENTITY_ID_BYTES} bytes in UTF-8, not {len(raw)}")
        return head + raw + tail

    return make


def keys_maker(rows: Sequence[tuple[int, str, str]]) -> Callable[[Sequence[str | None]], list[bytes | None]]:
    """The keys of several rows at once, of ids that were checked before: at most 256 bytes in UTF-8.

    rows: for each the place of its id, its entity and its view, as `key_maker` takes them. Gives None for each row
    whose id is None.
    """
    parts = [(place, b"{%b/" % entity.encode(), b"}%b" % view.encode()) for place, entity, view in rows]

    def make(entity_ids: Sequence[str | None]) -> list[bytes | None]:
        raw = [None if entity_id is None else entity_id.encode() for entity_id in entity_ids]
        return [None if (own := raw[place]) is None else head + own + tail for place, head, tail in parts]

    return make


class KeyParts(NamedTuple):
    """What a key says."""

    entity: str
    entity_id: str
    view: str


def parse_key(key: bytes) -> KeyParts:
    """Take a row's key apart. Names hold no brace and no slash, so an id may hold both. Raises ValueError."""
    head, brace, view = key.rpartition(b"}")
    entity, slash, entity_id = head[1:].partition(b"/")
    if not brace or not slash or not entity_id or head[:1] != b"{":
        raise ValueError("no key of a row")
    parts = KeyParts(entity.decode(), entity_id.decode(), view.decode())
    if not _NAME.fullmatch(parts.entity) or not _NAME.fullmatch(parts.view):
        raise ValueError("no key of a row")
    return parts
