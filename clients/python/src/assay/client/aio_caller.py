"""How the client for asyncio makes one call: connections, attempts, hedges."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import grpc
from grpc import aio

from assay.client import calls
from assay.client.calls import How, Method
from assay.client.course import Course, Shared, shared
from assay.client.errors import AssayError, from_rpc
from assay.client.failed import Failed
from assay.client.hosts import Host
from assay.client.options import Options
from assay.client.retrying import Then, then

if TYPE_CHECKING:
    # For type checkers alone, and by this name also in Python 3.10.
    import typing_extensions as typed


class AsyncCaller:
    """Connections to all hosts, and calls on them. hosts: addresses, as a list or parted by commas."""

    def __init__(self, hosts: str | Iterable[str], options: Options | None = None) -> None:
        self.options = options or Options()
        self._shared: Shared = shared(hosts, self.options, aio)

    async def __aenter__(self) -> typed.Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all connections; calls under way fail. Harmless when repeated."""
        for host in self._shared.hosts.all:
            for lane in host.lanes:
                await lane.channel.close()

    async def warm_up(self, timeout_s: float = 5.0) -> int:
        """Connects to all hosts at once, so that the first call need not, and gives how many hosts are ready: they are
        connected, and their health service says that they serve."""

        async def ready(host: Host) -> bool:
            try:
                waits = (lane.channel.channel_ready() for lane in host.lanes)
                await asyncio.wait_for(asyncio.gather(*waits), timeout_s)
            except asyncio.TimeoutError:  # noqa: UP041 (in Python 3.10 it is another than TimeoutError)
                return False
            return True

        return sum(await asyncio.gather(*map(ready, self._shared.hosts.all)))

    async def call(self, method: Method, request: Any, request_id: str = "", **how: typed.Unpack[How]) -> Any:
        """Any unary method of `assay.client.calls` with its own request message; gives its response."""
        course = Course(self._shared, request_id, how.get("timeout_s", self.options.timeout_s))
        return (await self._follow(course, method, request, calls.headers(self.options, how)))[1]

    async def _follow(self, course: Course, method: Method, request: Any, metadata: Any) -> tuple[Host, Any]:
        """The host that answered, and its answer."""
        attempt = course.begin()
        hedged = course.hedge_after_s is not None
        while True:
            if attempt.wait_s:
                await asyncio.sleep(attempt.wait_s)
            host = attempt.host
            try:
                if hedged:
                    host, answer = await self._hedged(course, host, method, request, metadata)
                else:
                    answer = await method.on(host.lane())(request, timeout=course.timeout_s(), metadata=metadata)
            except grpc.RpcError as error:
                attempt = course.failed(host, from_rpc(error, host.address))
            except Failed as error:
                attempt = course.failed(error.host, error.error)
            else:
                course.answered(host)
                return host, answer

    async def _hedged(
        self, course: Course, first: Host, method: Method, request: Any, metadata: Any
    ) -> tuple[Host, Any]:
        """Asks one host, after a while a second, and takes the first answer. Raises Failed with the error of the last
        that failed."""
        under_way: dict[asyncio.Task[Any], Host] = {}

        def start(host: Host) -> None:
            timeout_s = course.timeout_s(hedge=host is not first)
            call = method.on(host.lane())(request, timeout=timeout_s, metadata=metadata)
            under_way[asyncio.create_task(_awaited(call))] = host

        start(first)
        wait_s = course.hedge_after_s
        try:
            while True:
                ended, _ = await asyncio.wait(under_way, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                if not ended:
                    wait_s, other = None, course.hedge()
                    if other is not None:
                        start(other)
                    continue
                task = ended.pop()
                host = under_way.pop(task)
                failure = task.exception()
                if failure is None:
                    if host is not first and first in under_way.values():
                        course.overtaken(first)
                    return host, task.result()
                if not isinstance(failure, grpc.RpcError):
                    raise failure
                error: AssayError = from_rpc(failure, host.address)
                if not under_way or then(error) is Then.RAISE:
                    raise Failed(host, error)
                course.noted(host, error)
        finally:
            for task in under_way:
                task.cancel()


async def _awaited(call: Any) -> Any:
    return await call
