"""Feeds the index from the journal, behind the answers: what was appended is found here until it is found there."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from engine.errors import RecordError
from engine.record.index import Decided, DecisionIndex, Declared
from engine.record.journal import Declaration
from engine.record.segments import Position

# Decisions that wait to be indexed; beyond them, no further request is accepted.
MAX_WAITING = 200_000
_log = logging.getLogger("assay.record")
_EVERY_S = 0.2
_BATCH = 1000

# The tag of a decision's frame: request key, decision id, payload digest.
DecisionTag = tuple[bytes, str, bytes]


_Waiting = tuple[bytes, Decided | Declared, int, int]


class IndexFeed:
    """Holds what is not yet indexed, in memory, and indexes it in batches on a thread of its own.

    is_durable: `Journal.is_durable`. What is not yet durable waits; what never will be is not indexed. tend: called now
    and then; must not fail.
    """

    def __init__(
        self, index: DecisionIndex, is_durable: Callable[[int], bool | None], tend: Callable[[], None] = lambda: None
    ) -> None:
        self._index, self._tend = index, tend
        self._is_durable = is_durable
        self._requests: dict[bytes, Decided] = {}
        self._decisions: dict[str, Decided] = {}
        # (request key, decision) or (b"", declaration); where its frame ends; what `is_durable` asks for.
        self._waiting: deque[_Waiting] = deque()
        self._turn = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="assay-index", daemon=True)
        # Why the last attempt to index failed. Decisions are in the journal all the same.
        self.error: RecordError | None = None

    def start(self) -> None:
        """Begin to index."""
        self._thread.start()

    def note(self, tag: object, position: Position, end: int, mark: int) -> None:
        """A frame was written. Must be called in the journal's order: the watermark must not run ahead of a frame."""
        if type(tag) is tuple:
            request_key, decision_id, payload_digest = tag
            decided = Decided(payload_digest, decision_id, position)
            self._requests[request_key] = self._decisions[decision_id] = decided
            self._waiting.append((request_key, decided, end, mark))
        elif isinstance(tag, Declaration):
            self._waiting.append((b"", Declared(tag.kind, tag.digest, position), end, mark))

    def forget(self, request_key: bytes, decision_id: str) -> None:
        """A decision was noted and then not made durable."""
        self._requests.pop(request_key, None)
        self._decisions.pop(decision_id, None)

    def check_room(self) -> None:
        """Raise RecordError when the index is too far behind to take more."""
        if len(self._waiting) > MAX_WAITING:
            raise RecordError(f"too many decisions wait to be indexed: {self.error}")

    def find_request(self, request_key: bytes) -> Decided | None:
        """What is known of a request, here or in the index. Raises RecordError."""
        # In this order: what is indexed meanwhile is in the index before it goes from here.
        return self._requests.get(request_key) or self._index.find_request(request_key)

    def find_requests(self, request_keys: Sequence[bytes]) -> list[Decided | None]:
        """The same of many, with one look into the index. Raises RecordError."""
        here = self._requests
        found = [here.get(request_key) for request_key in request_keys]
        unknown = [place for place, decided in enumerate(found) if decided is None]
        if not unknown:
            return found
        # In this order: what is indexed meanwhile is in the index before it goes from here.
        indexed = self._index.find_requests([request_keys[place] for place in unknown])
        for place, decided in zip(unknown, indexed, strict=True):
            found[place] = decided
        return found

    def find_decision(self, decision_id: str) -> Position | None:
        """Where a decision is. Raises RecordError."""
        known = self._decisions.get(decision_id)
        return self._index.find_decision(decision_id) if known is None else known.position

    def stop(self) -> None:
        """End the thread. Call `flush` then."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def flush(self) -> None:
        """Index all that is durable now. Raises RecordError; what was not indexed stays noted."""
        with self._turn:
            while batch := self._take():
                try:
                    self._add(batch)
                except BaseException:
                    self._waiting.extendleft(reversed(batch))
                    raise

    def _run(self) -> None:
        while not self._stop.wait(_EVERY_S):
            before = self.error
            try:
                self._tend()
                self.flush()
                self.error = None
            except RecordError as e:
                self.error = e
            except Exception as e:  # the thread must live: without it the queue of what is not indexed only grows
                self.error = RecordError(f"the index failed: {type(e).__name__}")
                _log.exception("the index of decisions failed in an unforeseen way")
            if self.error is not None and before is None:
                _log.error("the index of decisions falls behind", extra={"cause": str(self.error)})
            elif self.error is None and before is not None:
                _log.info("the index of decisions works again")

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < _BATCH:
            if self._is_durable(self._waiting[0][3]) is None:
                break
            batch.append(self._waiting.popleft())
        return batch

    def _add(self, batch: list[_Waiting]) -> None:
        decisions: list[tuple[bytes, Decided]] = []
        declared: list[Declared] = []
        for request_key, item, _, mark in batch:
            if isinstance(item, Declared):
                declared.append(item)
            elif self._is_durable(mark):
                decisions.append((request_key, item))
        _, last, end, _ = batch[-1]
        self._index.add(decisions, declared, Position(last.position.segment, end))
        for request_key, decided in decisions:
            # A later decision under the same id stays.
            if self._requests.get(request_key) is decided:
                del self._requests[request_key]
            if self._decisions.get(decided.decision_id) is decided:
                del self._decisions[decided.decision_id]
