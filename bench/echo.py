"""The yardstick: gRPC servers that do nothing but parse a message and answer one of a given size.

    python -m bench.echo aio-uvloop|aio|threads --port 50061 --answer-bytes 1500

They serve the path of Decide, so that the request differs from a real one in nothing but its content.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import threading
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import BytesValue

THREADS = 10
KINDS = ("aio-uvloop", "aio", "threads")


def message_of(size: int, content: bytes = b"") -> bytes:
    """A serialized BytesValue of exactly `size` bytes that holds `content`.

    Raises ValueError where no value has that size (the step of the length prefix) or the content does not fit.
    """
    for overhead in range(2, 5):
        value = content + b"x" * (size - overhead - len(content))
        message = BytesValue(value=value).SerializeToString()
        if len(message) == size and size - overhead >= len(content):
            return message
    raise ValueError(f"no BytesValue takes {size} bytes")


def _handlers(behaviour: Callable[[BytesValue, Any], Any]) -> grpc.GenericRpcHandler:
    method = grpc.unary_unary_rpc_method_handler(
        behaviour,
        request_deserializer=BytesValue.FromString,
        response_serializer=BytesValue.SerializeToString,
    )
    return grpc.method_handlers_generic_handler("assay.decision.v1.DecisionService", {"Decide": method})


async def serve_aio(port: int, answer_bytes: int) -> None:
    """Serves with grpc.aio until SIGTERM."""
    blob = BytesValue.FromString(message_of(answer_bytes)).value

    async def decide(request: BytesValue, context: Any) -> BytesValue:
        return BytesValue(value=blob)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_handlers(decide),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await server.stop(1)


def serve_threads(port: int, answer_bytes: int) -> None:
    """Serves with the threaded server until SIGTERM."""
    blob = BytesValue.FromString(message_of(answer_bytes)).value

    def decide(request: BytesValue, context: Any) -> BytesValue:
        return BytesValue(value=blob)

    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    server = grpc.server(futures.ThreadPoolExecutor(THREADS))
    server.add_generic_rpc_handlers((_handlers(decide),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    stopped.wait()
    server.stop(1).wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="A bare gRPC server as a yardstick.")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--answer-bytes", type=int, default=500)
    options = parser.parse_args()
    if options.kind == "threads":
        serve_threads(options.port, options.answer_bytes)
    elif options.kind == "aio":
        asyncio.run(serve_aio(options.port, options.answer_bytes))
    else:
        import uvloop

        uvloop.run(serve_aio(options.port, options.answer_bytes))


if __name__ == "__main__":
    main()
