"""The course of a stream over the streams that it takes: both clients follow it. No I/O."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import grpc

from assay.client import calls
from assay.client.calls import How
from assay.client.course import Attempt, Course, Shared
from assay.client.errors import AssayError, Unavailable, from_rpc
from assay.client.hosts import Host
from assay.client.window import Window
from assay.decision.v1.decision_service_pb2 import DecideStreamResponse


class StreamCourse:
    """Window, course and settings of one stream of the caller's."""

    def __init__(self, shared: Shared, window: int, how: How) -> None:
        self._shared, self.window = shared, Window(window)
        self.metadata = calls.headers(shared.options, how)
        self.timeout_s: float = how.get("timeout_s", shared.options.stream_s)
        self._course = Course(shared, "", math.inf)
        # Whether the stream that is open has answered anything.
        self._got_on = False

    def begin(self) -> Attempt:
        """The first stream."""
        return self._course.begin()

    def received(self, response: DecideStreamResponse, host: Host) -> tuple[float, Callable[[], None]] | None:
        """Takes an answer. Gives a wait in seconds and what to do after it, where an item is to be sent again."""
        shared = self._shared
        shared.hosts.good(host)
        if not self._got_on:
            self._got_on = True
            self._course.again()
        shared.options.budget.call()
        found = self.window.receive(response, host.address)
        if found is None:
            return None
        item, error = found
        retry = shared.options.retry
        if item.tries + 1 >= retry.attempts_max or not shared.options.budget.take():
            self.window.settle(item, error)
            return None
        return retry.wait_s(item.tries + 1, error.retry_after_s), lambda: self.window.again(item)

    def broken(self, host: Host, error: Any = None) -> Attempt:
        """The stream ended. error: what gRPC raised, None when the server ended it without a word. Gives the next one.
        Raises the error when there is to be none."""
        found: AssayError = Unavailable(grpc.StatusCode.UNAVAILABLE, "The stream ended.", host=host.address)
        if error is not None:
            found = from_rpc(error, host.address)
            if found.code is grpc.StatusCode.CANCELLED:
                # A server that drains cancels a stream that waits for its next request.
                found = Unavailable(grpc.StatusCode.UNAVAILABLE, found.message, host=host.address)
        got_on, self._got_on = self._got_on, False
        if got_on and found.code is grpc.StatusCode.DEADLINE_EXCEEDED:
            # Its time was over, as every stream's is one day.
            return self._course.begin()
        return self._course.failed(host, found)
