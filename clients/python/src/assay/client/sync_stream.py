"""A stream of decisions for threads: gRPC's own thread sends, the caller's receives."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc

from assay.client.batch import Outcome
from assay.client.calls import DECIDE_STREAM, How
from assay.client.course import Attempt, Shared
from assay.client.stream_course import StreamCourse
from assay.decision.v1.decision_service_pb2 import DecideRequest, DecideStreamRequest


class Stream:
    """Iterate over it once. The condition guards the window and all that is below it."""

    def __init__(self, shared: Shared, source: Iterator[DecideRequest], window: int, how: How) -> None:
        self._course = StreamCourse(shared, window, how)
        self._source = source
        self._changed = threading.Condition()
        # Which stream is the open one; a thread that feeds an earlier one ends.
        self._number = 0
        self._reading = False
        self._source_error: BaseException | None = None

    def __iter__(self) -> Iterator[Outcome]:
        call, attempt = None, self._course.begin()
        window = self._course.window
        try:
            while True:
                with self._changed:
                    outcome, finished = window.take(), window.finished
                    if outcome is not None:
                        self._changed.notify_all()
                if outcome is not None:
                    yield outcome
                    continue
                if finished:
                    break
                if call is None:
                    time.sleep(attempt.wait_s)
                    call = self._open(attempt)
                try:
                    response = next(call, None)
                except grpc.RpcError as error:
                    attempt, call = self._course.broken(attempt.host, error), None
                    continue
                if response is not None:
                    self._received(response, attempt)
                elif not window.finished:
                    attempt, call = self._course.broken(attempt.host), None
        finally:
            with self._changed:
                self._number += 1
                self._changed.notify_all()
            if call is not None:
                call.cancel()
        if self._source_error is not None:
            raise self._source_error

    def _open(self, attempt: Attempt) -> Any:
        with self._changed:
            self._number += 1
            self._course.window.restart()
            self._changed.notify_all()
        course, lane = self._course, attempt.host.lane()
        return DECIDE_STREAM.on(lane)(self._feed(self._number), timeout=course.timeout_s, metadata=course.metadata)

    def _received(self, response: Any, attempt: Attempt) -> None:
        with self._changed:
            again = self._course.received(response, attempt.host)
        if again is not None:
            time.sleep(again[0])
            with self._changed:
                again[1]()
                self._changed.notify_all()

    def _feed(self, number: int) -> Iterator[DecideStreamRequest]:
        """What gRPC sends on one stream. It ends with the stream, or when everything is answered: until then an item
        may have to be sent again."""
        window = self._course.window
        while True:
            with self._changed:
                while True:
                    if self._number != number or window.finished:
                        return
                    request = window.send()
                    if request is not None:
                        break
                    if window.room and not self._reading:
                        self._reading = True
                        break
                    self._changed.wait()
            if request is not None:
                yield request
            else:
                self._read()

    def _read(self) -> None:
        """Takes one request from the caller's own iterator. Only one thread does, and it lets go of the condition, for
        the iterator may take its time; if its stream has ended meanwhile, the next one sends what was read."""
        request, error = None, None
        try:
            request = next(self._source, None)
        except BaseException as raised:
            error = raised
        with self._changed:
            self._reading = False
            if request is not None:
                self._course.window.add(request)
            else:
                self._course.window.exhausted, self._source_error = True, error
            self._changed.notify_all()
