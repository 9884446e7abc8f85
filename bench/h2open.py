"""An open-loop load generator for one unary gRPC method: calls come at their own times, whether or not others were
answered, as callers who know nothing of one another make them.

Times between calls are exponential (a Poisson process). A call's time counts from when it was due and not from when
the generator got round to it, so a server, or a generator, that falls behind is not flattered (coordinated omission).
How late the generator was is part of the report.

    python -m bench.h2open --port 50051 --requests FILE --rate 500 --seconds 5 --deadline-ms 500

It prints one JSON object. A run is bounded in time and touches the loopback only.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import select
import sys
import time
from array import array
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.h2gen import SECONDS_MAX, Connection, Load, Tally
from bench.hpack import request_headers
from bench.messages import DECIDE_PATH, GeneratorError, RequestWriter, read_requests

RATE_MAX = 50_000.0
# Beyond this the kernel's timer is precise enough to sleep; below it the generator asks again and again.
_SLEEP_LEAST_S = 0.002


@dataclass(frozen=True, slots=True)
class OpenLoad:
    """What to send: so many calls a second over so many connections. deadline_ms: each caller's patience; an answer
    that comes later is no answer. seed: of the times between calls."""

    port: int
    requests: tuple[bytes, ...]
    rate: float
    seconds: float
    warmup_s: float
    deadline_ms: int
    connections: int
    path: str = DECIDE_PATH
    seed: int = 1


@dataclass(frozen=True, slots=True)
class OpenReport:
    """What came of the calls that were due within the measured time. offered, goodput: calls a second that were due,
    and that were answered within their deadline. p50_ms ... p999_ms: of those; refused: of the calls, by gRPC status
    (8 is RESOURCE_EXHAUSTED); late: answered after their deadline, or not at all. lag_p99_ms: how late the generator
    sent; busy: the share of its time that it was at work."""

    calls: int
    offered: float
    goodput: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    refused: dict[str, int]
    refused_p99_ms: float
    late: int
    lag_p99_ms: float
    busy: float


class _Calls(Tally):
    """Calls of one run. Times in seconds."""

    def __init__(self, opens_s: float, closes_s: float, deadline_s: float) -> None:
        super().__init__()
        self.opens_s, self.closes_s, self.deadline_s = opens_s, closes_s, deadline_s
        self.due = self.late = 0
        self.good_s, self.refused_s, self.lags_s = array("d"), array("d"), array("d")
        self.refused: Counter[str] = Counter()

    def sent(self, due_s: float, now_s: float) -> None:
        if self.opens_s <= due_s < self.closes_s:
            self.due += 1
            self.lags_s.append(now_s - due_s)

    def ended(self, due_s: float, failure: str, now_s: float) -> None:
        if not self.opens_s <= due_s < self.closes_s:
            return
        took_s = now_s - due_s
        if failure and failure not in {"grpc-status 1", "grpc-status 4", "stream reset 8"}:
            self.refused[failure] += 1
            self.refused_s.append(took_s)
        elif failure or took_s > self.deadline_s:
            self.late += 1
        else:
            self.good_s.append(took_s)


class _OpenConnection(Connection):
    """A connection that calls are due on."""

    def __init__(self, load: Load, writer: RequestWriter, calls: _Calls) -> None:
        super().__init__(load, writer, calls)
        self._calls = calls
        self._held: deque[float] = deque()

    def send(self, due_s: Iterable[float]) -> None:
        """Sends calls that are due; what the server's flow control does not let out waits, and its time runs."""
        self._held.extend(due_s)
        held, out, now_s = self._held, [], time.perf_counter()
        while held and self._send_window >= self._writer.largest:
            at_s = held.popleft()
            stream = self._stream
            out.append(self._writer.write(stream, first=stream == 1))
            self._stream += 2
            self._send_window -= self._writer.largest
            self._started[stream] = at_s
            self._calls.sent(at_s, now_s)
        if out:
            self.socket.setblocking(True)
            self.socket.sendall(b"".join(out))

    def _let_out(self) -> None:
        self.send(())

    def _end(self, stream: int, failure: str, now: float) -> int:
        self._bytes.pop(stream, 0)
        self._calls.calls_all += 1
        self._calls.ended(self._started.pop(stream), failure, now)
        return 1


def run(load: OpenLoad) -> OpenReport:
    """Runs one open loop and reports it. Raises GeneratorError when a connection breaks or nothing was due."""
    if not 0 < load.warmup_s + load.seconds <= SECONDS_MAX or not 0 < load.rate <= RATE_MAX:
        raise GeneratorError(f"at most {SECONDS_MAX:.0f} seconds and {RATE_MAX:.0f} calls a second")
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", load.path),
        (":authority", f"127.0.0.1:{load.port}"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "assay-bench"),
        ("grpc-timeout", f"{load.deadline_ms}m"),
    ]
    closed = Load(load.port, load.requests, load.path, load.connections, 1, load.warmup_s, load.seconds)
    writer = RequestWriter(load.requests, request_headers(headers))
    began_s = time.perf_counter() + 0.05
    opens_s = began_s + load.warmup_s
    calls = _Calls(opens_s, opens_s + load.seconds, load.deadline_ms / 1000)
    connections = [_OpenConnection(closed, writer, calls) for _ in range(load.connections)]
    by_number = {connection.socket.fileno(): connection for connection in connections}
    poll = select.epoll()
    for number in by_number:
        poll.register(number, select.EPOLLIN)
    gc.collect()
    gc.disable()
    try:
        worked_s = _loop(load, calls, connections, by_number, poll, began_s)
    finally:
        gc.enable()
        poll.close()
        for connection in connections:
            connection.socket.close()
    return _report(load, calls, worked_s, sum(connection.in_flight for connection in connections))


def _loop(
    load: OpenLoad,
    calls: _Calls,
    connections: list[_OpenConnection],
    by_number: dict[int, _OpenConnection],
    poll: select.epoll,
    began_s: float,
) -> float:
    """Sends and receives until the last deadline has passed; gives the seconds at work while calls were due."""
    clock, chance = time.perf_counter, random.Random(load.seed)
    due_s, turn, worked_s = began_s, 0, 0.0
    over_s = calls.closes_s + calls.deadline_s + 1.0
    while (now := clock()) < over_s:
        sent = now >= due_s and due_s < calls.closes_s
        if sent:
            due: dict[int, list[float]] = {}
            while due_s <= now and due_s < calls.closes_s:
                due.setdefault(turn, []).append(due_s)
                turn = (turn + 1) % len(connections)
                due_s += chance.expovariate(load.rate)
            for index, times in due.items():
                connections[index].send(times)
        elif due_s >= calls.closes_s and not any(connection.in_flight for connection in connections):
            break
        left_s = min(due_s if due_s < calls.closes_s else over_s, over_s) - clock()
        waits_s = clock()
        # The kernel rounds to a whole millisecond, upwards.
        events = poll.poll(left_s - _SLEEP_LEAST_S if left_s > 2 * _SLEEP_LEAST_S else 0)
        waited_s = clock() - waits_s
        for number, _ in events:
            by_number[number].receive()
        # Asking again and again is no work.
        if now < calls.closes_s and (events or sent):
            worked_s += clock() - now - waited_s
    return worked_s


def _report(load: OpenLoad, calls: _Calls, worked_s: float, unanswered: int) -> OpenReport:
    if not calls.due:
        raise GeneratorError("no call was due within the measured time")
    good_ms = sorted(value * 1e3 for value in calls.good_s)
    return OpenReport(
        calls=calls.due,
        offered=calls.due / load.seconds,
        goodput=len(good_ms) / load.seconds,
        p50_ms=_at(good_ms, 0.5),
        p90_ms=_at(good_ms, 0.9),
        p99_ms=_at(good_ms, 0.99),
        p999_ms=_at(good_ms, 0.999),
        refused={status.removeprefix("grpc-status "): count for status, count in calls.refused.items()},
        refused_p99_ms=_at(sorted(value * 1e3 for value in calls.refused_s), 0.99),
        late=calls.late + unanswered,
        lag_p99_ms=_at(sorted(value * 1e3 for value in calls.lags_s), 0.99),
        busy=worked_s / (load.warmup_s + load.seconds),
    )


def _at(values: list[float], share: float) -> float:
    """A percentile of sorted values; 0.0 of none."""
    return round(values[min(len(values) - 1, int(len(values) * share))], 3) if values else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Open-loop load on one unary gRPC method on this machine.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--requests", type=Path, required=True)
    parser.add_argument("--path", default=DECIDE_PATH)
    parser.add_argument("--rate", type=float, required=True, help="calls a second")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--warmup", type=float, default=1.0, help="seconds before measuring")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds measured")
    parser.add_argument("--deadline-ms", type=int, default=500, help="of every call")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    load = OpenLoad(
        port=given.port,
        requests=read_requests(given.requests),
        rate=given.rate,
        seconds=given.seconds,
        warmup_s=given.warmup,
        deadline_ms=given.deadline_ms,
        connections=given.connections,
        path=given.path,
        seed=given.seed,
    )
    try:
        print(json.dumps(asdict(run(load))))
    except (GeneratorError, OSError) as error:
        sys.exit(f"h2open: {error}")


if __name__ == "__main__":
    main()
