"""The streams that are open: how many there may be, and how they end when the server drains."""

from __future__ import annotations

import threading

import grpc

from engine.errors import Refusal


class OpenStream:
    """One stream. `deciding` is true between a request's arrival and its answer's departure."""

    __slots__ = ("context", "deciding")

    def __init__(self, context: grpc.ServicerContext) -> None:
        self.context, self.deciding = context, False


class Streams:
    """Counts open streams, and ends idle ones on a drain.

    A stream holds a thread for as long as it is open, so their number is bounded. An idle one waits inside gRPC for
    its next request, where nothing but a cancellation reaches it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: set[OpenStream] = set()
        self._lock = threading.Lock()
        self._draining = False

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._open)

    def enter(self, context: grpc.ServicerContext) -> OpenStream:
        """A place for a stream. Raises Refusal when there is none."""
        with self._lock:
            if self._draining:
                raise Refusal("DRAINING", "The server is stopping; retry on another host.")
            if len(self._open) >= self._most:
                raise Refusal("OVERLOADED", f"{self._most} streams are open already; retry shortly.")
            stream = OpenStream(context)
            self._open.add(stream)
            return stream

    def leave(self, stream: OpenStream) -> None:
        """Gives the place back."""
        with self._lock:
            self._open.discard(stream)

    def begin(self, stream: OpenStream) -> bool:
        """A request has arrived. False when it must not be decided any more, because the server drains."""
        with self._lock:
            stream.deciding = not self._draining
            return stream.deciding

    def end(self, stream: OpenStream) -> bool:
        """Its answer is on its way. False when the stream is to end now, because the server drains."""
        with self._lock:
            stream.deciding = False
            return not self._draining

    def drain(self) -> None:
        """Lets no more streams in, and cancels those that are idle; the others end after their answer."""
        with self._lock:
            self._draining = True
            idle = [stream for stream in self._open if not stream.deciding]
        for stream in idle:
            stream.context.cancel()
