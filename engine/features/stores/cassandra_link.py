"""A connection to Cassandra that is made in the background, lost and found again, and calls with exact time limits."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from engine.errors import StoreError
from engine.features.store import StoreTimeout, StoreUnavailable
from engine.features.stores.cassandra_driver import Call, Rows, Session, Statement, Values, connect, store_error
from engine.features.stores.cassandra_settings import CassandraSettings, tls_context

_RETRY_S = 1.0
# How much later than who waits for it the driver gives a call up: its own limits are not exact.
_SLACK_S = 0.25


class _Wave:
    """Calls sent together, and their answers."""

    __slots__ = ("_left", "_lock", "_window", "answers", "done")

    def __init__(self, count: int, window: threading.Semaphore | None = None) -> None:
        self.answers: list[Rows | Exception | None] = [None] * count
        self.done = threading.Event()
        self._left = count
        self._lock = threading.Lock()
        self._window = window

    def ok(self, rows: Rows | None, place: Any) -> None:
        self._put(rows or [], place)

    def failed(self, error: Exception, place: Any) -> None:
        self._put(error, place)

    def _put(self, answer: Rows | Exception, place: int) -> None:
        with self._lock:
            if self.answers[place] is not None:  # the second answer to a hedged call
                return
            self.answers[place] = answer
            self._left -= 1
            last = not self._left
        if self._window is not None:
            self._window.release()
        if last:
            self.done.set()


class CassandraLink:
    """Runs prepared statements, by name.

    statements: by their names; check: called with a fresh session, raises StoreError when the keyspace is not as it
    must be. lazy: do not wait for the first connection, and go on trying when it fails: until it is there calls fail
    with the reason, and the first ones wait for the first attempt as long as they may. Once connected, the driver
    finds lost nodes again by itself.

    Raises StoreError: for files that cannot be used, and unless lazy when there is no connection.
    """

    def __init__(
        self,
        settings: CassandraSettings,
        statements: Mapping[str, Statement],
        check: Callable[[Session], None],
        *,
        lazy: bool,
    ) -> None:
        self.settings = settings
        self._statements = statements
        self._check = check
        self._tls = tls_context(settings)
        self._lazy = lazy
        self._closed = False
        self._forget()
        _forkable.add(self)
        self._begin()
        if not lazy:
            self._attempted.wait(self._connect_limit_s)
            if self._session is None:
                failure = self._failure
                self.close()
                raise failure

    def _forget(self) -> None:
        """Start without a session, and with locks that nobody holds."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._failure: StoreError = StoreUnavailable(f"{self.settings.place} is not connected yet")
        self._attempted = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def _connect_limit_s(self) -> float:
        return 10.0 + len(self.settings.addresses) * 3 * self.settings.connect_timeout_ms / 1000

    def _begin(self) -> None:
        with self._lock:
            if self._closed or self._thread is not None or self._session is not None:
                return
            self._thread = threading.Thread(target=self._connect, name="assay-cassandra-connect", daemon=True)
            self._thread.start()

    def _connect(self) -> None:
        while not self._stop.is_set():
            try:
                session = connect(self.settings, self._tls, self._statements, self._check)
            except StoreError as e:
                self._failure = e
            else:
                with self._lock:
                    if not self._closed:
                        self._session = session
                        self._thread = None
                        self._attempted.set()
                        return
                session.shutdown()
                return
            self._attempted.set()
            if not self._lazy or self._stop.wait(_RETRY_S):
                return

    def session(self, deadline_s: float) -> Session:
        """The session. Waits for the first attempt to connect. Raises StoreUnavailable, StoreTimeout."""
        session = self._session
        if session is not None:
            return session
        if self._closed:
            raise StoreUnavailable("the store is closed")
        self._begin()  # in a forked child
        if not self._attempted.wait(max(0.0, deadline_s - time.monotonic())):
            raise StoreTimeout(f"{self.settings.place} was not connected in time")
        session = self._session
        if session is None:
            if self._closed:
                raise StoreUnavailable("the store is closed")
            # A fresh exception for each caller: one that is raised in several threads grows a traceback of them all.
            raise type(self._failure)(str(self._failure))
        return session

    def each(
        self, calls: Sequence[Call], deadline_s: float, *, in_flight: int = 512, what: str = "read"
    ) -> list[Rows | StoreError]:
        """Run calls, all together up to `in_flight`, and give each one's rows or what went wrong with it.

        deadline_s: the moment on `time.monotonic()` at which this returns at the latest; calls without an answer by
        then have a StoreTimeout. Raises StoreUnavailable, StoreTimeout when there is no connection.
        """
        if deadline_s <= time.monotonic():
            raise StoreTimeout(f"no time left to {what}")
        session = self.session(deadline_s)
        window = threading.Semaphore(in_flight) if len(calls) > in_flight else None
        wave = _Wave(len(calls), window)
        for place, call in enumerate(calls):
            left_s = max(0.0, deadline_s - time.monotonic())
            if window is not None and not window.acquire(timeout=left_s):
                break
            try:
                session.send(call, wave.ok, wave.failed, place, left_s + _SLACK_S)
            except Exception as e:
                wave.failed(e, place)
        if calls:
            wave.done.wait(max(0.0, deadline_s - time.monotonic()))
        return [self._answer(answer) for answer in wave.answers]

    def _answer(self, answer: Rows | Exception | None) -> Rows | StoreError:
        if answer is None:
            return StoreTimeout(f"{self.settings.place} did not answer in time")
        return store_error(answer, self.settings) if isinstance(answer, Exception) else answer

    def all(self, calls: Sequence[Call], deadline_s: float, *, in_flight: int = 512, what: str = "read") -> list[Rows]:
        """The rows of every call. Raises the first StoreError of any."""
        answers: list[Rows] = []
        for answer in self.each(calls, deadline_s, in_flight=in_flight, what=what):
            if isinstance(answer, StoreError):
                raise answer
            answers.append(answer)
        return answers

    def pages(self, name: str, values: Values, timeout_s: float) -> Iterator[Rows]:
        """The rows of one statement, page by page; each may take timeout_s."""
        session = self.session(time.monotonic() + timeout_s)
        state = None
        while True:
            wave = _Wave(1)
            try:
                sent = session.send(Call(name, values), wave.ok, wave.failed, 0, timeout_s + _SLACK_S, state)
            except Exception as e:
                raise store_error(e, self.settings) from e
            wave.done.wait(timeout_s)
            answer = self._answer(wave.answers[0])
            if isinstance(answer, StoreError):
                raise answer
            yield answer
            state = session.next_page(sent)
            if state is None:
                return

    def close(self) -> None:
        """End the session and the threads. Harmless when repeated."""
        with self._lock:
            self._closed = True
            self._stop.set()
            session, self._session = self._session, None
            thread = self._thread
        self._attempted.set()
        if session is not None:
            session.shutdown()
        if thread is not None and thread is not threading.current_thread():
            thread.join(self._connect_limit_s)


_forkable: weakref.WeakSet[CassandraLink] = weakref.WeakSet()


def _after_fork() -> None:
    for link in list(_forkable):
        session = link._session
        link._forget()
        if session is not None:
            session.abandon()


os.register_at_fork(after_in_child=_after_fork)
