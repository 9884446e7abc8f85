"""The load generator tells the truth: every call has its own id, failures are seen, and the counts add up."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import BytesValue

from bench.echo import message_of
from bench.h2gen import Load, run
from bench.hpack import HeaderReader, HpackError, request_headers
from bench.messages import DECIDE_PATH, ID_MARKER, GeneratorError

REQUEST = message_of(700, ID_MARKER)


@contextmanager
def serving(decide: Callable[[bytes, grpc.ServicerContext], bytes]) -> Iterator[int]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(decide)
    handler = grpc.method_handlers_generic_handler("assay.decision.v1.DecisionService", {"Decide": method})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


def load(port: int, **changes: Any) -> Load:
    options: dict[str, Any] = {
        "port": port,
        "requests": (REQUEST,),
        "path": DECIDE_PATH,
        "connections": 2,
        "streams": 4,
        "warmup_s": 0.1,
        "seconds": 0.5,
    }
    return Load(**{**options, **changes})


def test_every_call_has_an_id_of_its_own_and_is_counted_once() -> None:
    seen: list[bytes] = []
    lock = threading.Lock()

    def decide(request: bytes, context: grpc.ServicerContext) -> bytes:
        with lock:
            seen.append(request)
        return message_of(1200)

    with serving(decide) as port:
        report = run(load(port))

    assert len(seen) == len(set(seen)) == report.calls_all
    assert 0 < report.calls <= report.calls_all
    assert report.failed == {}
    assert report.answer_bytes_min == report.answer_bytes_max == 1205
    assert 0 < report.p50_ms <= report.p99_ms
    for request in seen:
        identifier = BytesValue.FromString(request).value[: len(ID_MARKER)]
        assert identifier.startswith(b"bench-")
        assert identifier != ID_MARKER
        assert len(request) == len(REQUEST)


def test_templates_take_turns_over_a_window_larger_than_flow_control_allows_at_once() -> None:
    # 64 calls of 9 kB in flight on one connection are more than the 64 kB that HTTP/2 lets out before the first update.
    requests = tuple(message_of(size, ID_MARKER) for size in (9000, 9001, 9002))
    sizes: dict[int, int] = {}
    lock = threading.Lock()

    def decide(request: bytes, context: grpc.ServicerContext) -> bytes:
        with lock:
            sizes[len(request)] = sizes.get(len(request), 0) + 1
        return b""

    with serving(decide) as port:
        report = run(load(port, requests=requests, connections=1, streams=64))

    assert report.failed == {}
    assert set(sizes) == {9000, 9001, 9002}
    assert max(sizes.values()) - min(sizes.values()) <= 1
    assert sum(sizes.values()) == report.calls_all


def test_calls_that_fail_are_told_from_those_that_do_not() -> None:
    turn = iter(range(1_000_000))
    lock = threading.Lock()

    def decide(request: bytes, context: grpc.ServicerContext) -> bytes:
        with lock:
            number = next(turn)
        if number % 3 == 0:
            context.set_trailing_metadata((("incident", f"{number}"),))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"full at {number}")
        return b"x"

    with serving(decide) as port:
        report = run(load(port))

    assert set(report.failed) == {"grpc-status 8"}
    assert abs(report.failed["grpc-status 8"] - report.calls_all / 3) <= 1


def test_measures_the_servers_own_processor_time() -> None:
    with serving(lambda request, context: b"x") as port:
        report = run(load(port, server_pid=os.getpid()))
    # Server and generator share this process, so both readings are of the same processor time, one in ticks of 10 ms.
    assert report.server_cpu_us is not None
    assert report.server_cpu_us == pytest.approx(report.generator_cpu_us, abs=0.03e6 / report.calls)


def test_a_server_that_only_fails_or_is_not_there_ends_the_run() -> None:
    def refuse(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.INTERNAL, "always")

    with serving(refuse) as port, pytest.raises(GeneratorError, match="no call succeeded"):
        run(load(port))
    with pytest.raises(OSError, match="refused"):
        run(load(port))


def test_requests_without_a_place_for_the_id_are_refused() -> None:
    with serving(lambda request, context: b"x") as port, pytest.raises(GeneratorError, match="marker"):
        run(load(port, requests=(b"no id here",)))


def test_header_blocks_read_as_rfc_7541_writes_them() -> None:
    reader = HeaderReader()
    # :status 200 from the static table; grpc-status 0 joins the dynamic table and is then named by its index alone.
    assert reader.read(b"\x88") == (b"200", None)
    assert reader.read(b"\x40\x0bgrpc-status\x010") == (None, b"0")
    assert reader.read(b"\xbe") == (None, b"0")
    # A newer entry moves the older ones one place up; what 62 meant before is forgotten.
    assert reader.read(b"\x40\x0bgrpc-status\x0213") == (None, b"13")
    assert reader.read(b"\xbe") == (None, b"13")
    assert reader.read(b"\xbf") == (None, b"0")
    # A literal that stays outside the table, with its name from the table.
    assert reader.read(b"\x0f\x2f\x017") == (None, b"7")
    # The peer empties the table.
    assert reader.read(b"\x20\x88") == (b"200", None)
    with pytest.raises(HpackError, match="beyond the table"):
        reader.read(b"\xbe")


def test_request_headers_shrink_to_one_index_each_after_the_first_call() -> None:
    headers = request_headers([(":path", "/p"), ("te", "trailers")])
    reader = HeaderReader()
    reader.read(headers.first)
    assert headers.later == bytes([0x80 | 63, 0x80 | 62])
    assert reader.read(headers.later) == (None, None)
