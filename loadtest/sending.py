"""Sends one call and says what came of it: with blocking stubs (Locust's greenlets), and with asyncio."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from loadtest import grpc_errors
from loadtest.answers import EXPECTED, Found
from loadtest.measures import Call
from loadtest.rpcs import RPCS, Rpc
from loadtest.world import Ask

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Sent:
    """A call that ended, and how long the caller was told to wait. None: it was not."""

    call: Call
    retry_after_s: float | None


class _Attempt:
    """One call under way. due_s: when it was to be sent, seconds since 1970; absent: now."""

    __slots__ = ("_answers_us", "_ask", "_began", "_began_s", "_due_s", "_found", "_rpc", "_times")

    def __init__(self, ask: Ask, due_s: float | None) -> None:
        self._ask, self._rpc, self._due_s = ask, RPCS[ask.rpc], due_s
        self._found = Found()
        self._times: dict[str, float] = {}
        self._answers_us: list[float] = []
        self._began_s = time.time()
        self._began = time.perf_counter()

    @property
    def rpc(self) -> Rpc:
        return self._rpc

    def sending(self, message: Any) -> Any:
        """A message of a stream leaves."""
        if self._rpc.name == "DecideStream":
            self._times[message.request.request_id] = time.perf_counter()
        return message

    def answered(self, answer: Any) -> None:
        """An answer came, or one of a stream."""
        if self._rpc.name == "DecideStream" and (began := self._times.pop(answer.request_id, None)) is not None:
            self._answers_us.append((time.perf_counter() - began) * 1e6)
        self._found.read(self._rpc.name, answer)
        if self._ask.learn is not None:
            self._ask.learn(answer)

    def ended(self, error: grpc.RpcError | None = None) -> Sent:
        """The call is over."""
        service_us = (time.perf_counter() - self._began) * 1e6
        failure, shed, retry_after_s = "", False, self._found.retry_after_s
        if error is not None:
            said = grpc_errors.of_error(error)
            if (self._rpc.name, said.reason) not in EXPECTED:
                failure, shed, retry_after_s = said.reason, said.shed, said.retry_after_s
        elif self._times:
            failure = "STREAM_ENDED_EARLY"
        late_s = 0.0 if self._due_s is None else max(self._began_s - self._due_s, 0.0)
        call = Call(
            self._rpc.name,
            self._began_s - late_s,
            late_s * 1e6 + service_us,
            max(1, self._ask.decisions),
            self._found,
            failure,
            shed,
            None if self._due_s is None else service_us,
            tuple(self._answers_us),
        )
        return Sent(call, retry_after_s)


def send(methods: Mapping[str, Any], ask: Ask, timeout_s: float, metadata: Metadata = ()) -> Sent:
    """Makes a call with blocking stubs, and waits for all of its answer."""
    attempt = _Attempt(ask, None)
    rpc, method = attempt.rpc, methods[ask.rpc]

    def messages() -> Iterator[Any]:
        for message in ask.messages:
            yield attempt.sending(message)

    request = messages() if rpc.streams_in else ask.messages[0]
    try:
        answer = method(request, timeout=timeout_s, metadata=metadata)
        for one in answer if rpc.streams_out else (answer,):
            attempt.answered(one)
    except grpc.RpcError as error:
        return attempt.ended(error)
    return attempt.ended()


async def send_async(
    methods: Mapping[str, Any], ask: Ask, timeout_s: float, due_s: float, metadata: Metadata = ()
) -> Sent:
    """Makes a call with grpc.aio's stubs. due_s: when it was to be sent, seconds since 1970."""
    attempt = _Attempt(ask, due_s)
    rpc, method = attempt.rpc, methods[ask.rpc]

    async def messages() -> AsyncIterator[Any]:
        for message in ask.messages:
            yield attempt.sending(message)

    request = messages() if rpc.streams_in else ask.messages[0]
    try:
        call = method(request, timeout=timeout_s, metadata=metadata)
        if rpc.streams_out:
            async for one in call:
                attempt.answered(one)
        else:
            attempt.answered(await call)
    except grpc.RpcError as error:
        return attempt.ended(error)
    return attempt.ended()
