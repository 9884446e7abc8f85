"""The Redis store and a server that is late, that answers nonsense, or that is asked twice."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.errors import StoreError
from engine.features.store import StoreCorrupt, StoreTimeout, StoreUnavailable
from engine.features.stores.redis import RedisStore
from engine.features.stores.redis_settings import RedisSettings
from tests.support.faulty import until
from tests.support.plain_rows import closed_down_to, row, sockets, value
from tests.support.redis_places import guarded_server, guarded_settings, patient
from tests.support.redis_servers import RedisServer
from tests.support.redis_speaker import RedisSpeaker

# What a machine that stands still for a while adds to a call. Without its deadline a call would take far longer.
GRACE_S = 5.0
KEYS = [row("1", 1, view=view).key for view in ("one", "two")]


@pytest.fixture(params=["plain", "guarded"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[RedisServer, RedisStore]]:
    """A server that the test may halt, and a store on it with some connections."""
    if request.param == "plain":
        with RedisServer() as server:
            store = RedisStore(patient((server.address,)))
            yield server, store
            store.close()
        return
    server = guarded_server()
    server.admin().flushall()
    store = RedisStore(guarded_settings(server))
    yield server, store
    server.resume()
    store.close()


@pytest.mark.parametrize("budget_s", [0.003, 0.009, 0.02, 0.1])
def test_a_halted_server_costs_the_deadline_and_no_more(pair: tuple[RedisServer, RedisStore], budget_s: float) -> None:
    server, store = pair
    store.write([row("1", 1)])
    server.pause()
    calls: list[Callable[[float], object]] = [
        lambda deadline_s: store.read(KEYS, deadline_s),
        lambda deadline_s: store.read(KEYS, deadline_s),  # now over a connection that must be made first
        lambda deadline_s: store.update([(KEYS[0], lambda held: value(1))], deadline_s=deadline_s),
    ]
    for call in calls:
        deadline_s = time.monotonic() + budget_s
        with pytest.raises(StoreTimeout, match=r"redis at|no time left"):
            call(deadline_s)
        late_s = time.monotonic() - deadline_s
        assert -0.0005 <= late_s < GRACE_S
    server.resume()
    assert store.read([row("1", 1).key]) == [row("1", 1).value]


def test_a_late_answer_is_nobody_elses(pair: tuple[RedisServer, RedisStore]) -> None:
    server, store = pair
    rows = [row(str(i), i + 1, b"%d" % i * 20) for i in range(200)]
    store.write(rows)
    stop = threading.Event()
    wrong: list[object] = []
    right = [0] * 6

    def read(seed: int) -> None:
        choice = random.Random(seed)
        while not stop.is_set():
            some = choice.sample(rows, choice.randint(1, 4))
            try:
                found = store.read([r.key for r in some], time.monotonic() + choice.choice([0.002, 0.01, 0.05]))
            except (StoreTimeout, StoreUnavailable):
                continue
            if found != [r.value for r in some]:
                wrong.append(found)
            right[seed] += 1

    with ThreadPoolExecutor(6) as pool:
        readers = [pool.submit(read, seed) for seed in range(6)]
        for _ in range(12):
            server.pause()
            time.sleep(0.03)
            server.resume()
            time.sleep(0.05)
        until(lambda: all(right))
        stop.set()
        for reader in readers:
            reader.result()
    assert not wrong
    # All came back, and those that were late did not pile up.
    assert store.read([r.key for r in rows]) == [r.value for r in rows]
    assert server.connections() <= 7


# (what the server says to MGET of two keys, what becomes of it)
NONSENSE = [
    (b"*1\r\n$1\r\nx\r\n", StoreCorrupt),
    (b"*3\r\n$1\r\nx\r\n$-1\r\n$-1\r\n", StoreCorrupt),
    (b"*0\r\n", StoreCorrupt),
    (b"*-1\r\n", StoreCorrupt),
    (b"$-1\r\n", StoreCorrupt),
    (b"+OK\r\n", StoreCorrupt),
    (b":2\r\n", StoreCorrupt),
    (b"$2\r\nab\r\n", StoreCorrupt),
    (b"*2\r\n:1\r\n$-1\r\n", StoreCorrupt),
    (b"*2\r\n*1\r\n$1\r\nx\r\n$-1\r\n", StoreCorrupt),
    (b"*2\r\n$-1\r\n-ERR inside\r\n", StoreCorrupt),
    (b"*2\r\n$-1\r\n$-1\r\n*2\r\n$-1\r\n$-1\r\n", StoreCorrupt),
    (b"*2\r\n$-1\r\n$-1\r\n+", StoreCorrupt),
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", StoreCorrupt),
    (b"\x00\x01\x02", StoreCorrupt),
    (b"*x\r\n", StoreCorrupt),
    (b"*2\r\n$x\r\n", StoreCorrupt),
    (b"$99999999999999999999\r\n", StoreCorrupt),
    (b"*2\r\n$5\r\nab", StoreTimeout),
    (b"", StoreTimeout),
    (None, StoreUnavailable),
    (b"-ERR unknown command 'MGET', with args beginning with: '{subject/1}one'\r\n", StoreUnavailable),
    (b"-LOADING Redis is loading the dataset in memory\r\n", StoreUnavailable),
    (b"-OOM command not allowed when used memory > 'maxmemory'.\r\n", StoreUnavailable),
    (b"-NOAUTH Authentication required.\r\n", StoreUnavailable),
    (b"-READONLY You can't write against a read only replica.\r\n", StoreUnavailable),
    (b"-CLUSTERDOWN The cluster is down\r\n", StoreUnavailable),
    (b"-MASTERDOWN Link with MASTER is down\r\n", StoreUnavailable),
    (b"-MOVED 866 127.0.0.1:7001\r\n", StoreUnavailable),
    (b"-ASK 866 127.0.0.1:7001\r\n", StoreUnavailable),
    (b"-\r\n", StoreUnavailable),
]


@pytest.mark.parametrize("hedge_after_ms", [None, 30_000.0])
@pytest.mark.parametrize(("said", "kind"), NONSENSE)
def test_what_is_no_answer_is_never_a_row(
    said: bytes | None, kind: type[StoreError], hedge_after_ms: float | None
) -> None:
    good = b"*2\r\n$3\r\nrow\r\n$-1\r\n"
    answers = [good, said]
    before = sockets()
    with RedisSpeaker(lambda number, words: answers.pop(0) if answers else good) as speaker:
        store = RedisStore(patient((speaker.address,), hedge_after_ms=hedge_after_ms))
        assert store.read(KEYS) == [b"row", None]
        if said is None:
            answers.append(None)  # an ended connection is tried once more
        limit_s = 0.15 if kind is StoreTimeout else 20.0
        while answers:  # it may be late before it has asked
            with pytest.raises(kind) as caught:
                store.read(KEYS, time.monotonic() + limit_s)
        assert "{subject" not in str(caught.value)
        assert speaker.address in str(caught.value)
        assert store.read(KEYS) == [b"row", None]
        if kind is not StoreUnavailable:
            # What it answers next may be the answer to what was asked before.
            assert speaker.opened >= 2
        store.close()
    assert closed_down_to(before)


# What is as good as any other answer, for the calls by their numbers below.
FAIR = {b"$2\r\nab\r\n": {1}, b"+OK\r\n": {1}, b"$-1\r\n": {1}, b"*-1\r\n": {1}, b"*0\r\n": {0, 2}, b":2\r\n": {8}}


@pytest.mark.parametrize("said", [answer for answer, _ in NONSENSE if answer])
def test_nonsense_about_anything_else_is_said_so(said: bytes) -> None:
    with RedisSpeaker(lambda number, words: said) as speaker:
        store = RedisStore(RedisSettings((speaker.address,), read_timeout_ms=100, write_timeout_ms=100))
        calls: list[Callable[[], object]] = [
            lambda: store.delete_entity("subject", "1"),
            lambda: store.get_schema(b"12345678"),
            lambda: list(store.schemas()),
            lambda: list(store.scan()),
            store.ping,
            lambda: store.write([row("1", 1)]),
            lambda: store.update([(KEYS[0], lambda held: value(1))]),
            lambda: store.delete(KEYS[:1]),
            lambda: store.put_schema(b"12345678", b"{}"),
        ]
        for number, call in enumerate(calls):
            if number not in FAIR.get(said, ()):
                with pytest.raises(StoreError):
                    call()
        store.close()


def test_crumbs_do_not_hold_a_read_up() -> None:
    """A server that sends a byte now and then is always about to be done."""

    def crumbs(number: int, words: list[bytes]) -> bytes | None:
        time.sleep(0.01)
        return b"*" if not number % 2 else b"*2\r\n$100\r\nab"

    with RedisSpeaker(crumbs) as speaker:
        store = RedisStore(patient((speaker.address,)))
        for _ in range(3):
            deadline_s = time.monotonic() + 0.05
            with pytest.raises(StoreTimeout):
                store.read(KEYS, deadline_s)
            assert time.monotonic() - deadline_s < GRACE_S
        store.close()


def test_a_second_answer_may_come_first() -> None:
    halt, release, told = threading.Event(), threading.Event(), threading.Event()
    halted: list[int] = []

    def answer(number: int, words: list[bytes]) -> bytes | None:
        if halt.is_set() and not halted:
            halted.append(number)
            release.wait(60)
            told.set()
            return b"*2\r\n$4\r\nlate\r\n$-1\r\n"
        return b"*2\r\n$3\r\nrow\r\n$-1\r\n"

    with RedisSpeaker(answer) as speaker:
        store = RedisStore(patient((speaker.address,), hedge_after_ms=10.0))
        assert store.read(KEYS) == [b"row", None]
        # None yet, unless the machine stood still.
        sent, won = store.hedges_sent, store.hedges_won
        halt.set()
        assert store.read(KEYS, time.monotonic() + 50) == [b"row", None]
        assert halted
        assert (store.hedges_sent, store.hedges_won) == (sent + 1, won + 1)
        release.set()
        assert told.wait(60)
        # The loser is closed: its answer is nobody's.
        for _ in range(50):
            assert store.read(KEYS) == [b"row", None]
        assert speaker.opened <= 1 + store.hedges_sent
        store.close()


def test_a_read_that_is_answered_in_time_is_not_sent_twice() -> None:
    with RedisSpeaker(lambda number, words: b"*2\r\n$3\r\nrow\r\n$-1\r\n") as speaker:
        store = RedisStore(patient((speaker.address,), hedge_after_ms=9000.0))
        for _ in range(20):
            assert store.read(KEYS) == [b"row", None]
        assert (store.hedges_sent, store.hedges_won, speaker.opened) == (0, 0, 1)
        store.close()


def test_hedged_reads_of_a_real_server_are_right_whoever_wins(pair: tuple[RedisServer, RedisStore]) -> None:
    server, plain = pair
    rows = [row(str(i), i + 1, b"%d" % i * 300) for i in range(100)]
    plain.write(rows)
    settings = guarded_settings(server) if server.tls else patient((server.address,))
    before = sockets()
    store = RedisStore(
        RedisSettings(**{name: getattr(settings, name) for name in settings.__slots__} | {"hedge_after_ms": 0.05})
    )
    wrong: list[object] = []

    def read(seed: int) -> None:
        choice = random.Random(seed)
        for _ in range(200):
            some = choice.sample(rows, choice.randint(1, 20))
            found = store.read([r.key for r in some], time.monotonic() + 60)
            if found != [r.value for r in some]:
                wrong.append(found)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(read, seed) for seed in range(4)]:
            future.result()
    assert not wrong
    assert store.hedges_sent > 0
    server.pause()
    deadline_s = time.monotonic() + 0.05
    with pytest.raises(StoreTimeout):
        store.read([rows[0].key], deadline_s)
    assert time.monotonic() - deadline_s < GRACE_S
    server.resume()
    assert store.read([rows[0].key]) == [rows[0].value]
    store.close()
    assert closed_down_to(before)


def test_a_look_up_that_hangs_costs_the_deadline_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's look-up of names takes no time limit."""
    release = threading.Event()
    real = socket.getaddrinfo

    def hang(*words: object, **further: object) -> object:
        release.wait(60)
        return real(*words, **further)  # type: ignore[arg-type]

    with RedisServer() as server:
        monkeypatch.setattr(socket, "getaddrinfo", hang)
        store = RedisStore(patient((f"localhost:{server.port}",)))
        for _ in range(3):
            deadline_s = time.monotonic() + 0.03
            with pytest.raises(StoreTimeout, match=server.address.replace("127.0.0.1", "localhost")):
                store.read(KEYS, deadline_s)
            assert time.monotonic() - deadline_s < GRACE_S
        assert sum(thread.name == "redis-resolver" for thread in threading.enumerate()) == 1
        release.set()
        assert store.read(KEYS, time.monotonic() + 30) == [None, None]
        store.close()


def test_a_name_that_nobody_has_is_said_so() -> None:
    store = RedisStore(patient(("no-such-host.invalid:6379",)))
    with pytest.raises(StoreUnavailable, match=r"no-such-host\.invalid"):
        store.read(KEYS, time.monotonic() + 30)
    store.close()
