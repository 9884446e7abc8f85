"""The window of a stream: what was taken from the caller and not yet given back, in order. No I/O and no lock; who uses
it from several threads guards it.

A stream that broke is opened anew, and what has no answer is sent again under the same request ids: the server gives
the decisions that it made already.
"""

from __future__ import annotations

from collections import deque

from assay.client.batch import Outcome, failed
from assay.client.calls import with_id
from assay.client.errors import AssayError, from_status
from assay.client.retrying import Then, then
from assay.decision.v1.decision_service_pb2 import DecideRequest, DecideStreamRequest, DecideStreamResponse


class Item:
    """One request. tries: how often it was answered with an error and sent again."""

    __slots__ = ("outcome", "request", "tries")

    def __init__(self, request: DecideRequest) -> None:
        self.request, self.tries = with_id(request), 0
        self.outcome: Outcome | None = None


class Window:
    """most: items in it at once. exhausted: the caller has no more."""

    def __init__(self, most: int) -> None:
        if most < 1:
            raise ValueError("a stream's window must be 1 or more")
        self._most = most
        self._items: deque[Item] = deque()
        self._unsent: deque[Item] = deque()
        self.exhausted = False

    @property
    def finished(self) -> bool:
        """Everything was given back."""
        return self.exhausted and not self._items

    @property
    def room(self) -> bool:
        """Whether another item may be taken."""
        return not self.exhausted and len(self._items) < self._most

    @property
    def has_unsent(self) -> bool:
        """Whether something is to be sent."""
        return bool(self._unsent)

    def add(self, request: DecideRequest) -> None:
        """Takes an item."""
        item = Item(request)
        self._items.append(item)
        self._unsent.append(item)

    def restart(self) -> None:
        """The stream is a new one: whatever has no answer is to be sent."""
        self._unsent = deque(item for item in self._items if item.outcome is None)

    def send(self) -> DecideStreamRequest | None:
        """What is to be sent next. None: nothing now."""
        return DecideStreamRequest(request=self._unsent.popleft().request) if self._unsent else None

    def receive(self, response: DecideStreamResponse, host: str) -> tuple[Item, AssayError] | None:
        """Takes an answer. Gives item and error where it can be asked again, else None."""
        waiting = [item for item in self._items if item.outcome is None]
        # This server answers in order, and cuts an id that is too long to be one.
        item = next((one for one in waiting if one.request.request_id == response.request_id), None)
        if item is None:
            item = next((one for one in waiting if one.request.request_id.startswith(response.request_id)), None)
            if item is None:
                return None
        if response.WhichOneof("outcome") == "decision":
            item.outcome = Outcome(item.request.request_id, response.decision)
            return None
        error = from_status(response.error, host=host)
        if then(error) is Then.RAISE:
            self.settle(item, error)
            return None
        return item, error

    def settle(self, item: Item, error: AssayError) -> None:
        """The item ends with an error."""
        error.attempts = item.tries + 1
        item.outcome = failed(item.request.request_id, error)

    def again(self, item: Item) -> None:
        """The item is to be sent again."""
        item.tries += 1
        self._unsent.append(item)

    def take(self) -> Outcome | None:
        """The oldest item's outcome, once it is there."""
        if not self._items or self._items[0].outcome is None:
            return None
        return self._items.popleft().outcome
