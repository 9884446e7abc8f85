"""Server reflection, bounded: a reflection stream holds a thread for as long as it is open."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

_STREAMS_MAX = 2
_OPEN_MAX_S = 30.0


class _BoundedReflection(reflection.ReflectionServicer):
    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        self._places = threading.BoundedSemaphore(_STREAMS_MAX)

    def ServerReflectionInfo(self, request_iterator: Iterable[Any], context: Any) -> Iterator[Any]:
        """Answers what is asked on one stream, which is ended after a while."""
        if not self._places.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Reflection is in use; retry shortly.")
        end = threading.Timer(_OPEN_MAX_S, context.cancel)
        end.daemon = True
        end.start()
        try:
            yield from super().ServerReflectionInfo(request_iterator, context)
        finally:
            end.cancel()
            self._places.release()


def enable_reflection(names: Sequence[str], server: grpc.Server) -> None:
    """Lets callers such as grpcurl ask what the server offers. At most two streams at once, thirty seconds each."""
    add: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
    add(_BoundedReflection(names), server)
