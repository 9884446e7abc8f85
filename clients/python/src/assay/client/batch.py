"""Many decisions: pieces of what the server takes at once, and what became of each item."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from assay.client.calls import with_id
from assay.client.errors import AssayError, from_status
from assay.client.retrying import Then, then
from assay.decision.v1.decision_pb2 import Decision
from assay.decision.v1.decision_service_pb2 import DecideBatchRequest, DecideBatchResponse, DecideRequest


@dataclass(frozen=True)
class Outcome:
    """What became of one request: a decision, or an error."""

    request_id: str
    decision: Decision | None = None
    error: AssayError | None = None

    def result(self) -> Decision:
        """The decision. Raises the error where there is none."""
        if self.decision is not None:
            return self.decision
        assert self.error is not None
        raise self.error


def failed(request_id: str, error: AssayError) -> Outcome:
    """An error that one item, or all items of a call, met."""
    own = copy.copy(error)
    own.request_id = request_id
    return Outcome(request_id, error=own)


def pieces(requests: Iterable[DecideRequest], items_max: int, bytes_max: int) -> Iterator[list[DecideRequest]]:
    """The requests in order, in pieces of at most so many items and about so many bytes. Who has no id gets one."""
    piece: list[DecideRequest] = []
    size = 0
    for request in map(with_id, requests):
        own = request.ByteSize()
        if piece and (len(piece) >= items_max or size + own > bytes_max):
            yield piece
            piece, size = [], 0
        piece.append(request)
        size += own
    if piece:
        yield piece


class Piece:
    """One piece over its rounds: what is answered, and what is asked again."""

    def __init__(self, requests: list[DecideRequest]) -> None:
        self._requests = requests
        self._outcomes: dict[int, Outcome] = {}
        self._waiting = list(range(len(requests)))
        self._errors: dict[int, AssayError] = {}

    def request(self) -> DecideBatchRequest:
        """What is to be asked in this round."""
        return DecideBatchRequest(requests=[self._requests[index] for index in self._waiting])

    def answer(self, response: DecideBatchResponse, host: str) -> AssayError | None:
        """Takes an answer. Gives the error of an item that can be asked again, the one that wants the longest wait;
        None when every item is settled."""
        self._errors = {}
        for index, item in zip(self._waiting, response.items, strict=True):
            request_id = self._requests[index].request_id
            if item.WhichOneof("outcome") == "decision":
                self._outcomes[index] = Outcome(request_id, item.decision)
                continue
            error = from_status(item.error, host=host)
            self._outcomes[index] = failed(request_id, error)
            if then(error) is not Then.RAISE:
                self._errors[index] = error
        self._waiting = list(self._errors)
        return max(self._errors.values(), key=lambda error: error.retry_after_s or 0.0, default=None)

    def fail(self, error: AssayError) -> None:
        """The call failed for all items that are not settled. What an item said itself in an earlier round stands."""
        for index in self._waiting:
            self._outcomes.setdefault(index, failed(self._requests[index].request_id, error))

    def outcomes(self) -> list[Outcome]:
        """One a request, in order."""
        return [self._outcomes[index] for index in range(len(self._requests))]


def smaller(error: AssayError, items: int) -> int:
    """How many items the server takes at once, by its refusal of that many; 0 for another error."""
    told = error.metadata.get("items_max", "") if error.reason == "BATCH_TOO_LARGE" else ""
    return int(told) if told.isdecimal() and 0 < int(told) < items else 0
