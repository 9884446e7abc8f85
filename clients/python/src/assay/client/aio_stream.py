"""A stream of decisions for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any

import grpc
from grpc import aio

from assay.client.batch import Outcome
from assay.client.calls import DECIDE_STREAM, How
from assay.client.course import Attempt, Shared
from assay.client.stream_course import StreamCourse
from assay.decision.v1.decision_service_pb2 import DecideRequest, DecideStreamRequest

Source = AsyncIterable[DecideRequest] | Iterable[DecideRequest]


class AsyncStream:
    """Iterate over it once. Everything runs on one loop, so the condition only wakes who waits."""

    def __init__(self, shared: Shared, source: Source, window: int, how: How) -> None:
        self._course = StreamCourse(shared, window, how)
        self._source = source.__aiter__() if isinstance(source, AsyncIterable) else _each(source)
        self._changed = asyncio.Condition()
        self._number = 0
        self._source_error: BaseException | None = None

    async def outcomes(self) -> AsyncIterator[Outcome]:
        """The outcomes, in order."""
        call, attempt, window = None, self._course.begin(), self._course.window
        reader = asyncio.create_task(self._read())
        try:
            while True:
                outcome = window.take()
                if outcome is not None:
                    await self._wake()
                    yield outcome
                    continue
                if window.finished:
                    break
                if call is None:
                    await asyncio.sleep(attempt.wait_s)
                    call = await self._open(attempt)
                try:
                    response = await call.read()
                except grpc.RpcError as error:
                    attempt, call = self._course.broken(attempt.host, error), None
                    continue
                if response is not aio.EOF:
                    await self._received(response, attempt)
                elif not window.finished:
                    # The status of a stream that failed may come after its end.
                    failed = await call.code() is not grpc.StatusCode.OK
                    attempt, call = self._course.broken(attempt.host, await _error(call) if failed else None), None
        finally:
            self._number += 1
            reader.cancel()
            if call is not None:
                call.cancel()
            await self._wake()
        if self._source_error is not None:
            raise self._source_error

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _open(self, attempt: Attempt) -> Any:
        self._number += 1
        self._course.window.restart()
        await self._wake()
        course, lane = self._course, attempt.host.lane()
        return DECIDE_STREAM.on(lane)(self._feed(self._number), timeout=course.timeout_s, metadata=course.metadata)

    async def _received(self, response: Any, attempt: Attempt) -> None:
        again = self._course.received(response, attempt.host)
        if again is not None:
            await asyncio.sleep(again[0])
            again[1]()
            await self._wake()

    async def _feed(self, number: int) -> AsyncIterator[DecideStreamRequest]:
        """What gRPC sends on one stream. It ends with the stream, or when everything is answered."""
        window = self._course.window
        while self._number == number and not window.finished:
            request = window.send()
            if request is not None:
                yield request
                continue
            async with self._changed:
                await self._changed.wait_for(lambda: self._number != number or window.finished or window.has_unsent)

    async def _read(self) -> None:
        """Takes requests from the caller's iterator, as far ahead as the window."""
        window = self._course.window
        try:
            async for request in self._source:
                async with self._changed:
                    window.add(request)
                    self._changed.notify_all()
                    await self._changed.wait_for(lambda: window.room)
        except Exception as error:
            self._source_error = error
        window.exhausted = True
        await self._wake()


async def _each(source: Iterable[DecideRequest]) -> AsyncIterator[DecideRequest]:
    for request in source:
        yield request


async def _error(call: Any) -> Any:
    """The error of a call that has ended, with the metadata that is there only once it has."""
    return aio.AioRpcError(
        await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
    )
