"""The log of decisions: journal and index behind one door.

    claim(request key) -> decide -> commit(record) -> answer

A claim makes a request id its caller's own until it commits or abandons, so that of concurrent duplicates one decides
and the others are given its answer. What was committed is found at once in this process, and by every process that
shares the directory as soon as it looks for it; claims are held in this process alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from engine.errors import RecordError
from engine.record.claims import CLAIMED, Claim, Claimed, Claims, Conflict, Existing, InProgress
from engine.record.entries import (
    Erasure,
    StoredDecision,
    pack_erasure,
    pack_ids,
    unpack_decision,
    unpack_declared,
)
from engine.record.feed import IndexFeed
from engine.record.index import MAX_KEY_BYTES, Decided, DecisionIndex
from engine.record.journal import Durability, Journal
from engine.record.layouts import Chain
from engine.record.master import MasterKey
from engine.record.recover import Recovery, catch_up, recover
from engine.record.retention import drop_through, prune
from engine.record.segments import (
    Damage,
    Frame,
    FrameKind,
    Position,
    list_segments,
    read_frame,
    scan,
    segment_path,
    worker_of,
)
from engine.record.subject_keys import SubjectKeys

__all__ = [
    "Claim",
    "Claimed",
    "Commit",
    "Conflict",
    "DecisionLog",
    "Existing",
    "InProgress",
    "Position",
    "Recovery",
    "StoredDecision",
]

# Ids are the engine's own, and must fit into the index.
_MAX_ID_CHARACTERS, _MAX_DIGEST_BYTES = 100, 64
_PLAIN_DIGEST_BYTES = 32
_NOT_APPENDED = (FrameKind.DECISION, FrameKind.CATALOGUE, FrameKind.ENVIRONMENT, FrameKind.ERASED)


class Commit(NamedTuple):
    """A decision to be recorded: what `DecisionLog.commit` is given."""

    request_key: bytes
    decision_id: str
    payload_digest: bytes
    record: bytes
    personal: bytes = b""
    subject: str = ""
    country: str = ""


class DecisionLog:
    """Safe to use from several threads. One process may open a directory under one worker name; others share it under
    names of their own. Open it after the last fork."""

    def __init__(
        self,
        directory: str | Path,
        *,
        worker: str = "w0",
        durability: Durability = "process",
        segment_bytes: int = 64 << 20,
        bytes_max: int = 0,
        master: MasterKey | None = None,
        seal: bool = True,
    ) -> None:
        """Open or create; cut torn tails and index what a crash left unindexed, also of workers that are no more.

        bytes_max: what the directory may hold, 0 for no bound; beyond it nothing is committed. master: signs the heads
        of the chain, seals the personal parts of records, and opens them; without it they are stored plain. seal: False
        stores them plain all the same. Raises RecordError, ValueError for settings out of range.
        """
        self._directory = Path(directory)
        self._worker = worker
        self._claims = Claims()
        self._closed = False
        # What opening found.
        self.recovery = Recovery()
        self._head_key = None if master is None else master.heads
        self._master, self._seals = master, seal and master is not None
        self._journal = Journal(
            self._directory,
            worker,
            durability=durability,
            segment_bytes=segment_bytes,
            bytes_max=bytes_max,
            head_key=self._head_key,
        )
        self.keys: SubjectKeys | None = None
        try:
            if master is not None:
                self.keys = SubjectKeys(self._directory, master, worker, durable=durability == "disk")
                self._journal.before_sync = self.keys.sync
            self._index = DecisionIndex(self._directory / "index")
            try:
                self.recovery = recover(self._directory, self._index, worker)
                self._feed = IndexFeed(self._index, self._journal.is_durable, self._journal.tend)
                self._journal.on_append = self._feed.note
            except BaseException:
                self._index.close()
                raise
        except BaseException:
            self._journal.close()
            raise
        self._feed.start()

    @property
    def index_error(self) -> RecordError | None:
        """Why the last attempt to index failed, None when it went well. Decisions are in the journal all the same."""
        return self._feed.error

    @classmethod
    def open(
        cls,
        directory: str | Path,
        *,
        worker: str = "w0",
        durability: Durability = "process",
        segment_bytes: int = 64 << 20,
        bytes_max: int = 0,
        master: MasterKey | None = None,
        seal: bool = True,
    ) -> DecisionLog:
        """The constructor by the name of what it does."""
        return cls(
            directory,
            worker=worker,
            durability=durability,
            segment_bytes=segment_bytes,
            bytes_max=bytes_max,
            master=master,
            seal=seal,
        )

    def claim(
        self, request_key: bytes, payload_digest: bytes, plain_digest: Callable[[], bytes] | None = None
    ) -> Claim:
        """Ask for a request id. Never waits.

        request_key: 1 to 511 bytes that name the request among all tenants. plain_digest: gives the payload's SHA-256,
        which is what was kept before digests were keyed, and while there is no master key; asked for only when such a
        decision is met. Raises RecordError when the log cannot take a decision.
        """
        if not 0 < len(request_key) <= MAX_KEY_BYTES:
            raise RecordError(f"a request key has 1 to {MAX_KEY_BYTES} bytes")
        taken = self._claims.take(request_key, payload_digest)
        if taken is not CLAIMED:
            return taken
        try:
            if self._closed:
                raise RecordError("the log of decisions is closed")
            self._feed.check_room()
            known = self._feed.find_request(request_key)
        except BaseException:
            self._claims.release(request_key)
            raise
        return CLAIMED if known is None else self._decided(request_key, payload_digest, known, plain_digest)

    def claim_many(self, requests: Sequence[tuple[bytes, bytes]]) -> list[Claim | RecordError]:
        """`claim` for (request key, payload digest) pairs, with one look into the index; in order, with what `claim`
        would raise in its place."""
        found: list[Claim | RecordError] = []
        mine: list[tuple[int, bytes]] = []
        for request_key, payload_digest in requests:
            if not 0 < len(request_key) <= MAX_KEY_BYTES:
                found.append(RecordError(f"a request key has 1 to {MAX_KEY_BYTES} bytes"))
                continue
            taken = self._claims.take(request_key, payload_digest)
            if taken is CLAIMED:
                mine.append((len(found), request_key))
            found.append(taken)
        try:
            if self._closed:
                raise RecordError("the log of decisions is closed")
            self._feed.check_room()
            known = self._feed.find_requests([request_key for _, request_key in mine])
        except BaseException as error:
            for place, request_key in mine:
                self._claims.release(request_key)
                if isinstance(error, RecordError):
                    found[place] = error
            if not isinstance(error, RecordError):
                raise
            return found
        for (place, request_key), one in zip(mine, known, strict=True):
            if one is not None:
                found[place] = self._decided(request_key, requests[place][1], one, None)
        return found

    def _decided(
        self, request_key: bytes, payload_digest: bytes, known: Decided, plain_digest: Callable[[], bytes] | None
    ) -> Existing | Conflict:
        """What a claim comes to that is given back, because the request was decided before."""
        self._claims.release(request_key)
        if known.payload_digest != payload_digest and not (
            plain_digest is not None
            and len(known.payload_digest) == _PLAIN_DIGEST_BYTES
            and known.payload_digest == plain_digest()
        ):
            return Conflict(known.decision_id)
        return Existing(known.decision_id, known.position)

    def wait(self, request_key: bytes, timeout_s: float) -> bool:
        """Wait until a request in progress is committed or abandoned; then `claim` again. False: timed out."""
        return self._claims.wait(request_key, timeout_s)

    def commit(
        self,
        request_key: bytes,
        decision_id: str,
        payload_digest: bytes,
        record: bytes,
        personal: bytes = b"",
        subject: str = "",
        country: str = "",
    ) -> Position:
        """Append the record; it survives what the log's durability says when this returns, and the claim is over.

        record, personal: the two parts of the record, which one after the other are the whole message; personal is
        sealed under the key of `subject`, unless the log does not seal. country: for how long the key is kept (see
        `prune`), at most 8 bytes.

        Raises RecordError: nothing was recorded, and the claim stands (commit again or abandon).
        """
        self._check(request_key, decision_id, payload_digest)
        if personal and self._seals and self.keys is not None:
            sealed = self.keys.seal(decision_id, subject, personal, country)
            ids, personal = pack_ids(request_key, decision_id, payload_digest, sealed), b""
        else:
            ids = pack_ids(request_key, decision_id, payload_digest)
        try:
            position = self._journal.append(
                FrameKind.DECISION, ids, record, personal, tag=(request_key, decision_id, payload_digest)
            )
        except BaseException:
            self._feed.forget(request_key, decision_id)
            raise
        self._claims.release(request_key)
        return position

    def commit_many(self, items: Sequence[Commit]) -> list[Position | RecordError]:
        """`commit` for many, with one write of the journal and, where it is to be on disk, one sync.

            found = log.commit_many([Commit(request_key, decision_id, payload_digest, record, personal, subject)])

        Gives, in order, where each record is, or the RecordError that `commit` would raise: that one is not recorded
        and its claim stands; no item harms another. The claims of the others are over.
        """
        if len(items) == 1:
            try:
                return [self.commit(*items[0])]
            except RecordError as error:
                return [error]
        found: dict[int, Position | RecordError] = {}
        frames: list[tuple[Sequence[bytes], object]] = []
        order: list[int] = []
        sealed = self._seal_many(items)
        for index, (item, part) in enumerate(zip(items, sealed, strict=True)):
            key, decision_id, digest, record, personal, _, _ = item
            try:
                self._check(key, decision_id, digest)
                if isinstance(part, RecordError):
                    raise part
                ids = pack_ids(key, decision_id, digest, part)
            except RecordError as error:
                found[index] = error
                continue
            order.append(index)
            frames.append(((ids, record, personal) if part is None else (ids, record), (key, decision_id, digest)))
        try:
            written = self._journal.append_many(FrameKind.DECISION, frames)
        except BaseException:
            for index in order:
                self._feed.forget(items[index].request_key, items[index].decision_id)
            raise
        for index, place in zip(order, written, strict=True):
            found[index] = place
            if isinstance(place, RecordError):
                self._feed.forget(items[index].request_key, items[index].decision_id)
            else:
                self._claims.release(items[index].request_key)
        return [found[index] for index in range(len(items))]

    def _seal_many(self, items: Sequence[Commit]) -> Sequence[bytes | RecordError | None]:
        """The personal parts, sealed; None for those that are stored plain."""
        if not self._seals or self.keys is None:
            return [None] * len(items)
        which = [index for index, item in enumerate(items) if item.personal]
        sealed: list[bytes | RecordError | None] = [None] * len(items)
        parts = [(items[i].decision_id, items[i].subject, items[i].personal, items[i].country) for i in which]
        for index, part in zip(which, self.keys.seal_many(parts), strict=True):
            sealed[index] = part
        return sealed

    def _check(self, request_key: bytes, decision_id: str, payload_digest: bytes) -> None:
        if request_key not in self._claims:
            raise RecordError("a decision was committed for a request that is not claimed")
        if not 0 < len(decision_id) <= _MAX_ID_CHARACTERS or len(payload_digest) > _MAX_DIGEST_BYTES:
            raise RecordError("a decision's id or digest is too long or empty")

    def append_shadow(
        self, decision_id: str, record: bytes, personal: bytes = b"", subject: str = "", country: str = ""
    ) -> Position:
        """Append a challenger's record as a SHADOW frame, sealed as `commit` does; `unpack_decision` reads it. No id
        finds it. Raises RecordError."""
        if personal and self._seals and self.keys is not None:
            sealed = self.keys.seal(decision_id, subject, personal, country)
            return self.append(FrameKind.SHADOW, pack_ids(b"", decision_id, b"", sealed) + record)
        return self.append(FrameKind.SHADOW, pack_ids(b"", decision_id, b"") + record + personal)

    def erase(self, subject: str) -> bool:
        """Erase a person: the personal parts of all records about a subject, of every worker here, can be read by
        nobody from now on, while the chain stays whole. That it happened is appended, without saying of whom. Records
        of later requests get a new key. False: there was nothing to erase. Records that were stored plain stay.

        Raises RecordError: it is not complete, call again.
        """
        if self.keys is None or self._master is None:
            return False
        gone = self.keys.erase(subject)
        if gone:
            erasure = Erasure(self._master.subject_mark(subject), time.time_ns() // 1000, gone)
            self._journal.append(FrameKind.ERASED, pack_erasure(erasure), bounded=False)
        return gone > 0

    def drop_through(self, position: Position) -> list[str]:
        """Let a worker's whole segments go that end at or before a position, because all in them is kept elsewhere; an
        anchor keeps the rest of the chain verifiable. Decisions in them are still known by their request id, and no
        longer found. What was let go. Raises RecordError."""
        worker = worker_of(position.segment)
        gone = drop_through(self._directory, position, worker, self._head_key, own=worker == self._worker)
        self._journal.measure()
        return gone

    def prune(
        self,
        now_us: int,
        retain_days: Mapping[str, int],
        shipped_through: Mapping[str, Position] | None = None,
    ) -> tuple[int, list[str]]:
        """Keep nothing longer than a country's days ("" for those not named, 0 for ever): keys whose records are older
        are deleted, which erases personal parts to the day; and whole segments go when all in them is older than the
        longest of the days and, where `shipped_through` is given, shipped.

        How many keys and which segments went. Raises RecordError.
        """
        keys = 0 if self.keys is None else self.keys.expire(now_us, retain_days)
        gone: list[str] = []
        for worker in self._workers():
            shipped = None if shipped_through is None else shipped_through.get(worker, Position("", 0))
            gone += prune(self._directory, worker, now_us, retain_days, shipped, self._head_key)
        self._journal.measure()
        return keys, gone

    def head(self) -> Chain | None:
        """Where this worker's chain stands: to be kept elsewhere, so that nobody can shorten it unseen."""
        return self._journal.head()

    def append(self, kind: FrameKind, payload: bytes, tag: object = None) -> Position:
        """Append what is not a decision: an outcome, a change, a challenger's record. As durable as a decision when
        this returns. It is found by reading the journal, not by an id.

        tag: the caller's own name for it; nothing here reads it. Raises RecordError: it is not in the journal.
        """
        if kind in _NOT_APPENDED:
            raise ValueError(f"a frame of kind {kind.name} is not appended by hand")
        if self._closed:
            raise RecordError("the log of decisions is closed")
        self._feed.check_room()
        del tag
        return self._journal.append(kind, payload)

    def abandon(self, request_key: bytes) -> None:
        """Give a claim back undecided. Harmless when there is none."""
        self._claims.release(request_key)

    def declare_catalogue(self, digest: str, payload: bytes) -> None:
        """Keep a slot list beside the records that refer to it by digest: in every segment, before its records.

        Harmless when repeated; to be called before the first commit that refers to it. Raises RecordError.
        """
        self._journal.declare(FrameKind.CATALOGUE, digest, payload)

    def declare_environment(self, digest: str, payload: bytes) -> None:
        """The same for a description of the pinned environment."""
        self._journal.declare(FrameKind.ENVIRONMENT, digest, payload)

    def get_catalogue(self, digest: str) -> bytes | None:
        """A slot list by its digest. Raises RecordError when its bytes are damaged."""
        return self._get_declared(FrameKind.CATALOGUE, digest)

    def get_environment(self, digest: str) -> bytes | None:
        """An environment by its digest. Raises RecordError when its bytes are damaged."""
        return self._get_declared(FrameKind.ENVIRONMENT, digest)

    def _get_declared(self, kind: FrameKind, digest: str) -> bytes | None:
        known = self._journal.declared(kind, digest)
        if known is not None:
            return known
        position = self._index.find_declared(kind, digest)
        if position is None:
            self._catch_up_with_others()
            position = self._index.find_declared(kind, digest)
        return None if position is None else unpack_declared(read_frame(self._directory, position).payload)[1]

    def get_by_decision_id(self, decision_id: str) -> StoredDecision | None:
        """Look a decision up, whichever worker made it. Raises RecordError when its bytes are damaged."""
        if not 0 < len(decision_id) <= _MAX_ID_CHARACTERS:
            return None
        return self._get(lambda: self._feed.find_decision(decision_id))

    def get_by_request_key(self, request_key: bytes) -> StoredDecision | None:
        """Look a decision up, whichever worker made it. Raises RecordError when its bytes are damaged."""
        if not 0 < len(request_key) <= MAX_KEY_BYTES:
            return None

        def find() -> Position | None:
            known = self._feed.find_request(request_key)
            return None if known is None else known.position

        return self._get(find)

    def _get(self, find: Callable[[], Position | None]) -> StoredDecision | None:
        position = find()
        if position is None:
            self._catch_up_with_others()
            position = find()
        if position is None or not segment_path(self._directory, position.segment).exists():
            return None
        return self.read(position)

    def read(self, position: Position) -> StoredDecision:
        """The decision at a position that this log gave. Raises RecordError when its bytes are damaged."""
        return unpack_decision(read_frame(self._directory, position), self.keys)

    def iterate(
        self, from_position: Position | None = None, on_damage: Callable[[Damage], None] | None = None
    ) -> Iterator[StoredDecision]:
        """All decisions of all workers, by worker and age.

        from_position: where an earlier run stood; the decision there comes first. on_damage: told of every stretch
        that does not check out, and the rest follows; without it the first one raises RecordError.
        """
        for segment in list_segments(self._directory):
            if from_position is not None and segment < from_position.segment:
                continue
            here = from_position is not None and segment == from_position.segment
            for item in scan(self._directory, segment, from_position.offset if here and from_position else 0):
                if isinstance(item, Frame):
                    if item.kind == FrameKind.DECISION:
                        yield unpack_decision(item, self.keys)
                elif isinstance(item, Damage):
                    if on_damage is None:
                        at, length, why, *_ = item
                        raise RecordError(f"segment {at.segment} is damaged at {at.offset} for {length} bytes: {why}")
                    on_damage(item)

    @property
    def end(self) -> Position | None:
        """Up to where this worker has written; None before its first decision."""
        return self._journal.end

    def iterate_own(self, from_position: Position | None = None) -> Iterator[StoredDecision]:
        """This worker's decisions, by age, from a position on. What is damaged is left out: it is reported when the log
        is opened and when it is audited."""
        for segment in list_segments(self._directory):
            if worker_of(segment) != self._worker or (from_position is not None and segment < from_position.segment):
                continue
            offset = from_position.offset if from_position is not None and segment == from_position.segment else 0
            for item in scan(self._directory, segment, offset):
                if isinstance(item, Frame) and item.kind == FrameKind.DECISION:
                    yield unpack_decision(item, self.keys)

    def close(self) -> None:
        """Write the index out and let go. Harmless when repeated. Raises RecordError when what is left cannot be made
        durable; all else is let go all the same."""
        if self._closed:
            return
        self._closed = True
        self._feed.stop()
        try:
            self._journal.close()
        finally:
            try:
                self._feed.flush()
            finally:
                self._index.close()
                if self.keys is not None:
                    self.keys.close()

    def catch_up(self) -> None:
        """Index what other workers here have written. Raises RecordError."""
        self._catch_up_with_others()

    def indexed_to(self) -> Position | None:
        """Up to where this worker's decisions are found by every process that shares the directory."""
        return self._index.watermark(self._worker)

    def _workers(self) -> list[str]:
        return sorted({worker_of(segment) for segment in list_segments(self._directory)})

    def _catch_up_with_others(self) -> None:
        for worker in self._workers():
            if worker != self._worker:
                catch_up(self._directory, self._index, worker)
