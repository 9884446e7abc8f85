"""A closed-loop load generator for one unary gRPC method, with a request id of its own in every call.

h2load sends the same bytes every time, and an engine that answers a repeated request id from its records would look
faster than it is. This one speaks HTTP/2 over plain sockets, writes a fresh id over a marker in the prepared message,
checks the gRPC status and the size of every answer, and costs some 30 microseconds a call. `bench.run` holds it against
h2load on the echo servers.

    python -m bench.h2gen --port 50051 --requests FILE --connections 4 --streams 8 --seconds 3 --server-pid 4711

FILE holds requests as 4-byte big-endian length and message, each with `ID_MARKER` where the id goes. It prints one JSON
object. A run is bounded in time and touches the loopback only.
"""

from __future__ import annotations

import argparse
import gc
import json
import select
import socket
import struct
import sys
import time
from array import array
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.hpack import HeaderReader, request_headers
from bench.messages import DECIDE_PATH, GeneratorError, RequestWriter, read_requests
from bench.procfs import cpu_seconds

SECONDS_MAX = 120.0

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_WINDOW_BYTES = 1 << 30
_STATUS_OK = b"0"


@dataclass(frozen=True, slots=True)
class Load:
    """What to send: requests with `ID_MARKER` inside, over so many connections with so many calls in flight on each."""

    port: int
    requests: tuple[bytes, ...]
    path: str
    connections: int
    streams: int
    warmup_s: float
    seconds: float
    server_pid: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it. Times in milliseconds, CPU in microseconds per call, all within the measured window."""

    calls: int
    calls_all: int
    failed: dict[str, int]
    seconds: float
    rps: float
    p50_ms: float
    p99_ms: float
    server_cpu_us: float | None
    generator_cpu_us: float
    answer_bytes_min: int
    answer_bytes_max: int


class Tally:
    """Counts of one run."""

    def __init__(self) -> None:
        self.measuring = False
        self.latencies_s = array("d")
        self.calls_all = 0
        self.failed: Counter[str] = Counter()
        self.answer_bytes_min = sys.maxsize
        self.answer_bytes_max = 0


class Connection:
    """One HTTP/2 connection with a fixed number of calls in flight."""

    def __init__(self, load: Load, writer: RequestWriter, tally: Tally) -> None:
        self.socket = socket.create_connection(("127.0.0.1", load.port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._writer, self._tally, self._reader = writer, tally, HeaderReader()
        self._started: dict[int, float] = {}
        self._bytes: dict[int, int] = {}
        self._stream = 1
        self._send_window = 65_535
        self._waiting = 0
        self._received = 0
        self._rest = b""
        self.open = True
        # Room for any answer, so that the server never waits for this side.
        settings = struct.pack(">HIHI", 0x2, 0, 0x4, _WINDOW_BYTES)
        self.socket.sendall(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, settings)
            + _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _WINDOW_BYTES - 65_535))
        )

    @property
    def in_flight(self) -> int:
        return len(self._started)

    def submit(self, calls: int) -> None:
        """Starts so many calls in one write; those that the server's flow control does not let out wait."""
        out = []
        now = time.perf_counter()
        for _ in range(calls):
            if self._send_window < self._writer.largest:
                self._waiting += 1
                continue
            stream = self._stream
            call = self._writer.write(stream, first=stream == 1)
            self._stream += 2
            self._send_window -= self._writer.largest
            self._started[stream] = now
            out.append(call)
        if out:
            self.socket.sendall(b"".join(out))

    def receive(self) -> int:
        """Reads what is there and returns how many calls have ended."""
        data = self.socket.recv(262_144)
        now = time.perf_counter()
        if not data:
            raise GeneratorError("the server closed a connection")
        if self._rest:
            data = self._rest + data
        ended = at = 0
        size = len(data)
        while size - at >= 9:
            stop = at + 9 + int.from_bytes(data[at : at + 3], "big")
            if stop > size:
                break
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + 9], "big")
            if kind == _HEADERS:
                ended += self._headers(stream, flags, data[at + 9 : stop], now)
            elif kind == _DATA:
                self._received += stop - at - 9
                self._bytes[stream] = self._bytes.get(stream, 0) + stop - at - 9
                if flags & _END_STREAM:
                    ended += self._end(stream, "no status", now)
            else:
                ended += self._control(kind, flags, stream, data[at + 9 : stop], now)
            at = stop
        self._rest = data[at:]
        if self._received > _WINDOW_BYTES // 2:
            self.socket.sendall(_frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", self._received)))
            self._received = 0
        return ended

    def _headers(self, stream: int, flags: int, block: bytes, now: float) -> int:
        if not flags & _END_HEADERS or flags & (_PADDED | _PRIORITY):
            raise GeneratorError("the server sends header frames that this generator does not read")
        status, grpc_status = self._reader.read(block)
        if not flags & _END_STREAM:
            if status != b"200":
                raise GeneratorError(f"HTTP status {status!r}")
            return 0
        if grpc_status == _STATUS_OK:
            return self._end(stream, "", now)
        return self._end(stream, f"grpc-status {(grpc_status or b'missing').decode()}", now)

    def _end(self, stream: int, failure: str, now: float) -> int:
        tally = self._tally
        tally.calls_all += 1
        size = self._bytes.pop(stream, 0)
        latency_s = now - self._started.pop(stream)
        if failure:
            tally.failed[failure] += 1
            return 1
        if tally.measuring:
            tally.latencies_s.append(latency_s)
        tally.answer_bytes_min = min(tally.answer_bytes_min, size)
        tally.answer_bytes_max = max(tally.answer_bytes_max, size)
        return 1

    def _control(self, kind: int, flags: int, stream: int, payload: bytes, now: float) -> int:
        """Everything but answers. Returns how many calls have ended by it."""
        if kind == _WINDOW_UPDATE:
            if stream == 0:
                self._send_window += struct.unpack(">I", payload)[0]
                self._let_out()
        elif kind == _PING and not flags & _ACK:
            self.socket.sendall(_frame(_PING, _ACK, 0, payload))
        elif kind == _SETTINGS and not flags & _ACK:
            for at in range(0, len(payload), 6):
                name, value = struct.unpack(">HI", payload[at : at + 6])
                if name == 0x4 and value < self._writer.largest:
                    raise GeneratorError("a request does not fit the server's stream window")
            self.socket.sendall(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _RST_STREAM:
            if stream in self._started:
                return self._end(stream, f"stream reset {struct.unpack('>I', payload)[0]}", now)
        elif kind == _GOAWAY:
            raise GeneratorError(f"the server said GOAWAY: {payload[8:].decode(errors='replace')}")
        return 0

    def _let_out(self) -> None:
        waiting, self._waiting = self._waiting, 0
        if self.open and waiting:
            self.submit(waiting)


def run(load: Load) -> Report:
    """Runs one closed loop and reports it.

    Raises GeneratorError when the connection breaks, when the server stops answering, or when no call was measured.
    """
    if not 0 < load.warmup_s + load.seconds <= SECONDS_MAX:
        raise GeneratorError(f"a run takes more than 0 and at most {SECONDS_MAX:.0f} seconds")
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", load.path),
        (":authority", f"127.0.0.1:{load.port}"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "assay-bench"),
        # A caller in earnest sets a deadline.
        ("grpc-timeout", "10S"),
    ]
    writer, tally = RequestWriter(load.requests, request_headers(headers)), Tally()
    connections = [Connection(load, writer, tally) for _ in range(load.connections)]
    by_number = {connection.socket.fileno(): connection for connection in connections}
    poll = select.epoll()
    for number in by_number:
        poll.register(number, select.EPOLLIN)
    gc.collect()
    gc.disable()
    try:
        return _loop(load, tally, by_number, poll)
    finally:
        gc.enable()
        poll.close()
        for connection in connections:
            connection.socket.close()


def _loop(load: Load, tally: Tally, by_number: dict[int, Connection], poll: select.epoll) -> Report:
    clock = time.perf_counter
    for connection in by_number.values():
        connection.submit(load.streams)
    opens = clock() + load.warmup_s
    _turn(by_number, poll, until=opens)
    tally.measuring = True
    server_cpu_s = cpu_seconds(load.server_pid) if load.server_pid is not None else None
    own_cpu_s = time.process_time()
    opened = clock()
    _turn(by_number, poll, until=opened + load.seconds)
    tally.measuring = False
    seconds = clock() - opened
    own_cpu_s = time.process_time() - own_cpu_s
    if load.server_pid is not None and server_cpu_s is not None:
        server_cpu_s = cpu_seconds(load.server_pid) - server_cpu_s
    for connection in by_number.values():
        connection.open = False
    _turn(by_number, poll, until=clock() + 10, drain=True)

    latencies_ms = sorted(value * 1e3 for value in tally.latencies_s)
    calls = len(latencies_ms)
    if calls == 0:
        raise GeneratorError(f"no call succeeded within the window; failures: {dict(tally.failed)}")
    return Report(
        calls=calls,
        calls_all=tally.calls_all,
        failed=dict(tally.failed),
        seconds=seconds,
        rps=calls / seconds,
        p50_ms=latencies_ms[calls // 2],
        p99_ms=latencies_ms[min(calls - 1, calls * 99 // 100)],
        server_cpu_us=None if server_cpu_s is None else server_cpu_s / calls * 1e6,
        generator_cpu_us=own_cpu_s / calls * 1e6,
        answer_bytes_min=tally.answer_bytes_min,
        answer_bytes_max=tally.answer_bytes_max,
    )


def _turn(by_number: dict[int, Connection], poll: select.epoll, *, until: float, drain: bool = False) -> None:
    """Answers and new calls in turn until the time is up; with `drain` no new calls, until none is in flight."""
    clock = time.perf_counter
    silent_since = clock()
    while (now := clock()) < until:
        if drain and not any(connection.in_flight for connection in by_number.values()):
            return
        events = poll.poll(min(1.0, until - now))
        if events:
            silent_since = clock()
        elif clock() - silent_since > 5:
            raise GeneratorError("the server has not answered for 5 seconds")
        for number, _ in events:
            connection = by_number[number]
            ended = connection.receive()
            if ended and not drain:
                connection.submit(ended)
    if drain:
        raise GeneratorError("calls were still unanswered ten seconds after the last one was sent")


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def main() -> None:
    parser = argparse.ArgumentParser(description="Closed-loop load on one unary gRPC method on this machine.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--requests", type=Path, required=True)
    parser.add_argument("--path", default=DECIDE_PATH)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--streams", type=int, default=1, help="calls in flight on each connection")
    parser.add_argument("--warmup", type=float, default=1.0, help="seconds before measuring")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds measured")
    parser.add_argument("--server-pid", type=int)
    options = parser.parse_args()
    load = Load(
        port=options.port,
        requests=read_requests(options.requests),
        path=options.path,
        connections=options.connections,
        streams=options.streams,
        warmup_s=options.warmup,
        seconds=options.seconds,
        server_pid=options.server_pid,
    )
    try:
        print(json.dumps(asdict(run(load))))
    except (GeneratorError, OSError) as error:
        sys.exit(f"h2gen: {error}")


if __name__ == "__main__":
    main()
