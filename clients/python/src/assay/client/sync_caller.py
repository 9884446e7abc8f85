"""How the client for threads makes one call: connections, attempts, hedges."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import grpc

from assay.client import calls
from assay.client.calls import How, Method
from assay.client.course import Course, Shared, shared
from assay.client.errors import from_rpc
from assay.client.failed import Failed
from assay.client.hosts import Host
from assay.client.options import Options
from assay.client.retrying import Then, then

if TYPE_CHECKING:
    # For type checkers alone, and by this name also in Python 3.10.
    import typing_extensions as typed


class Caller:
    """Connections to all hosts, and calls on them. hosts: addresses, as a list or parted by commas."""

    def __init__(self, hosts: str | Iterable[str], options: Options | None = None) -> None:
        self.options = options or Options()
        self._shared: Shared = shared(hosts, self.options, grpc)

    def __enter__(self) -> typed.Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all connections; calls under way fail. Harmless when repeated."""
        for host in self._shared.hosts.all:
            for lane in host.lanes:
                lane.channel.close()

    def warm_up(self, timeout_s: float = 5.0) -> int:
        """Connects to all hosts at once, so that the first call need not, and gives how many hosts are ready: they are
        connected, and their health service says that they serve."""
        hosts = self._shared.hosts.all
        waiting = [(host, grpc.channel_ready_future(lane.channel)) for host in hosts for lane in host.lanes]
        end_s, ready = time.monotonic() + timeout_s, set(hosts)
        for host, future in waiting:
            try:
                future.result(timeout=max(0.0, end_s - time.monotonic()))
            except grpc.FutureTimeoutError:
                future.cancel()
                ready.discard(host)
        return len(ready)

    def call(self, method: Method, request: Any, request_id: str = "", **how: typed.Unpack[How]) -> Any:
        """Any unary method of `assay.client.calls` with its own request message; gives its response."""
        course = Course(self._shared, request_id, how.get("timeout_s", self.options.timeout_s))
        return self._follow(course, method, request, calls.headers(self.options, how))[1]

    def _follow(self, course: Course, method: Method, request: Any, metadata: Any) -> tuple[Host, Any]:
        """The host that answered, and its answer."""
        attempt = course.begin()
        hedged = course.hedge_after_s is not None
        while True:
            if attempt.wait_s:
                time.sleep(attempt.wait_s)
            host = attempt.host
            try:
                if hedged:
                    host, answer = self._hedged(course, host, method, request, metadata)
                else:
                    answer = method.on(host.lane())(request, timeout=course.timeout_s(), metadata=metadata)
            except grpc.RpcError as error:
                attempt = course.failed(host, from_rpc(error, host.address))
            except Failed as error:
                attempt = course.failed(error.host, error.error)
            else:
                course.answered(host)
                return host, answer

    def _hedged(self, course: Course, first: Host, method: Method, request: Any, metadata: Any) -> tuple[Host, Any]:
        """Asks one host, after a while a second, and takes the first answer. Raises Failed with the error of the last
        that failed."""
        ended: queue.SimpleQueue[tuple[Host, Any]] = queue.SimpleQueue()
        under_way: dict[Host, Any] = {}

        def start(host: Host) -> None:
            timeout_s = course.timeout_s(hedge=host is not first)
            future = method.on(host.lane()).future(request, timeout=timeout_s, metadata=metadata)
            under_way[host] = future
            future.add_done_callback(_put(ended, host))

        start(first)
        try:
            wait_s = course.hedge_after_s
            while True:
                try:
                    host, future = ended.get(timeout=wait_s)
                except queue.Empty:
                    wait_s, other = None, course.hedge()
                    if other is not None:
                        start(other)
                    continue
                del under_way[host]
                if future.code() is grpc.StatusCode.OK:
                    if host is not first and first in under_way:
                        course.overtaken(first)
                    return host, future.result()
                error = from_rpc(future, host.address)
                if not under_way or then(error) is Then.RAISE:
                    raise Failed(host, error)
                course.noted(host, error)
        finally:
            for future in under_way.values():
                future.cancel()


def _put(ended: queue.SimpleQueue[tuple[Host, Any]], host: Host) -> Callable[[Any], None]:
    return lambda future: ended.put((host, future))
