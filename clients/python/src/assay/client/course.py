"""The course of one call over its attempts. It decides and does no I/O: `Client` and `AsyncClient` both follow it.

attempt = course.begin()
while True:
    sleep(attempt.wait_s); send to attempt.host with course.timeout_s()
    course.answered(attempt.host), or attempt = course.failed(attempt.host, error), which raises when it is over
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import grpc

from assay.client.channels import Lane, addresses_of, open_channel
from assay.client.errors import AssayError, DeadlineExceeded
from assay.client.hedging import Delay
from assay.client.hosts import Host, Hosts, Trouble
from assay.client.options import Options
from assay.client.retrying import Then, then


class Attempt(NamedTuple):
    """Ask this host, after that wait."""

    host: Host
    wait_s: float


class Shared:
    """What all calls of a client share. items_max: of a piece of a batch, as far as is known."""

    def __init__(self, options: Options, hosts: Hosts) -> None:
        self.options, self.hosts = options, hosts
        self.items_max = options.items_max
        self.delay = None if options.hedge is None or len(hosts.all) == 1 else Delay(options.hedge)


def shared(hosts: str | Iterable[str], options: Options, library: Any) -> Shared:
    """What a client begins with. library: `grpc` or `grpc.aio`."""
    lanes = range(options.connections)
    found = [
        Host(address, [Lane(open_channel(address, options, library)) for _ in lanes]) for address in addresses_of(hosts)
    ]
    return Shared(options, Hosts(found, options.ejection))


class Course:
    """One call. deadline_s: on `time.monotonic()`."""

    __slots__ = (
        "_attempt_timeout_s",
        "_attempts",
        "_given_s",
        "_sent_s",
        "_shared",
        "_tried",
        "deadline_s",
        "request_id",
    )

    def __init__(
        self, shared: Shared, request_id: str, timeout_s: float, attempt_timeout_s: float | None = None
    ) -> None:
        """attempt_timeout_s: absent: that of the options."""
        self._shared, self.request_id = shared, request_id
        self._sent_s = time.monotonic()
        self.deadline_s = self._sent_s + timeout_s
        self._attempt_timeout_s = attempt_timeout_s or shared.options.attempt_timeout_s
        self._attempts, self._given_s = 0, 0.0
        self._tried: list[Host] = []

    def begin(self) -> Attempt:
        """The first attempt."""
        self._shared.options.budget.call()
        return Attempt(self._next(time.monotonic()), 0.0)

    def again(self) -> None:
        """It got on, so what fails next is a first failure: for streams and batches."""
        self._attempts, self._tried = 1, []

    def timeout_s(self, hedge: bool = False) -> float:
        """The time of an attempt that is sent now. Raises DeadlineExceeded when none is left."""
        now_s = time.monotonic()
        if not hedge:
            self._sent_s = now_s
        left_s = self.deadline_s - now_s
        if left_s <= 0:
            code = grpc.StatusCode.DEADLINE_EXCEEDED
            raise self._over(DeadlineExceeded(code, "The deadline passed before the call was sent."), "deadline")
        self._given_s = min(left_s, self._attempt_timeout_s)
        return self._given_s

    def answered(self, host: Host) -> None:
        """The host has answered, with a result."""
        self._shared.hosts.good(host)
        if self._shared.delay is not None:
            self._shared.delay.answered(time.monotonic() - self._sent_s)

    def failed(self, host: Host, error: AssayError) -> Attempt:
        """The next attempt. Raises the error when there is to be none."""
        now_s = time.monotonic()
        self.noted(host, error, now_s)
        options, what = self._shared.options, then(error)
        if what is Then.RAISE:
            raise self._over(error)
        if self._attempts >= options.retry.attempts_max:
            raise self._over(error, "attempts")
        if error.reason == "DEADLINE_TOO_SHORT" and now_s + self._given_s > self.deadline_s:
            # No host can do in less time what this one could not.
            raise self._over(error, "deadline")
        if what is Then.ELSEWHERE and self._shared.hosts.has_other(now_s, self._tried):
            wait_s = 0.0
        else:
            wait_s = options.retry.wait_s(self._attempts, error.retry_after_s)
        if now_s + wait_s >= self.deadline_s:
            raise self._over(error, "deadline")
        if not options.budget.take():
            raise self._over(error, "budget")
        return Attempt(self._next(now_s), wait_s)

    def later(self, error: AssayError) -> float | None:
        """The host has answered, and some of what was asked is to be asked again. Gives the wait in seconds, None when
        it is not to be asked any more."""
        options = self._shared.options
        wait_s = options.retry.wait_s(self._attempts, error.retry_after_s)
        if self._attempts >= options.retry.attempts_max or time.monotonic() + wait_s >= self.deadline_s:
            return None
        if not options.budget.take():
            return None
        self._attempts += 1
        return wait_s

    def noted(self, host: Host, error: AssayError, now_s: float | None = None) -> None:
        """An attempt failed: what that says of its host."""
        now_s, hosts = time.monotonic() if now_s is None else now_s, self._shared.hosts
        if error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
            # The engine's own word for it (DEADLINE_TOO_SHORT) shows that the host is well; and what had hardly any
            # time says nothing of it.
            if not error.reason and self._given_s >= self._attempt_timeout_s / 2:
                hosts.bad(host, Trouble.SLOW, now_s)
        elif then(error) is Then.ELSEWHERE:
            hosts.bad(host, Trouble.GONE, now_s)
        else:
            hosts.good(host)

    def overtaken(self, host: Host) -> None:
        """A host lost against the hedge on another."""
        self._shared.hosts.bad(host, Trouble.SLOW, time.monotonic())

    @property
    def hedge_after_s(self) -> float | None:
        """After how long a second attempt may join the first. None: never."""
        delay = self._shared.delay
        return None if delay is None else delay.after_s

    def hedge(self) -> Host | None:
        """The host of a second attempt beside the first. None: there is no other, or the budget is spent."""
        now_s = time.monotonic()
        if now_s >= self.deadline_s or not self._shared.hosts.has_other(now_s, self._tried):
            return None
        return self._pick(now_s) if self._shared.options.budget.take() else None

    def _next(self, now_s: float) -> Host:
        self._attempts += 1
        return self._pick(now_s)

    def _pick(self, now_s: float) -> Host:
        if len(self._tried) >= len(self._shared.hosts.all):
            self._tried = []
        host = self._shared.hosts.pick(now_s, self._tried)
        self._tried.append(host)
        return host

    def _over(self, error: AssayError, stopped_by: str = "") -> AssayError:
        error.attempts, error.request_id, error.stopped_by = self._attempts, self.request_id, stopped_by
        return error
