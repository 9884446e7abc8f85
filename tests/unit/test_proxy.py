"""The tests' own proxy does what it says: a fault that did not happen would prove nothing."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.faulty import until
from tests.support.proxy import Proxy

ANSWER = bytes(range(256)) * 4


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """In front of a server that answers every line with `ANSWER`."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(end: socket.socket) -> None:
        with end, contextlib.suppress(OSError):
            while end.recv(1024):
                end.sendall(ANSWER)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    with Proxy(listener.getsockname()[1]) as made:
        yield made
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    assert not [t for t in threading.enumerate() if t.name == "proxy"]


def connect(proxy: Proxy) -> socket.socket:
    end = socket.create_connection(("127.0.0.1", proxy.port), 60.0)
    end.settimeout(60.0)
    return end


def ask(end: socket.socket, size: int = len(ANSWER)) -> bytes:
    end.sendall(b"?\n")
    got = b""
    while len(got) < size and (data := end.recv(4096)):
        got += data
    return got


def test_it_passes_on_and_counts(proxy: Proxy) -> None:
    with connect(proxy) as one, connect(proxy) as two:
        assert ask(one) == ask(two) == ANSWER
        assert (proxy.opened, proxy.open) == (2, 2)
    until(lambda: proxy.open == 0)
    assert proxy.opened == 2


def test_slow_and_trickling_answers_are_whole(proxy: Proxy) -> None:
    with connect(proxy) as end:
        proxy.slow(50)
        begin_s = time.monotonic()
        assert ask(end) == ANSWER
        assert time.monotonic() - begin_s >= 0.05
        proxy.trickle(128, every_ms=5)
        begin_s = time.monotonic()
        assert ask(end) == ANSWER
        assert time.monotonic() - begin_s >= 0.035


def test_a_silent_one_takes_and_gives_nothing(proxy: Proxy) -> None:
    with connect(proxy) as old:
        proxy.silent()
        with connect(proxy) as new:
            for end in (old, new):
                end.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    ask(end)
            proxy.well()
            new.settimeout(60.0)
            assert ask(new) == ANSWER


def test_refusing_ends_the_old_and_takes_no_new_until_it_is_well(proxy: Proxy) -> None:
    with connect(proxy) as end:
        ask(end)
        proxy.refuse()
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.well()
    with connect(proxy) as end:
        assert ask(end) == ANSWER


def test_a_reset_and_a_cut_come_in_the_middle_of_an_answer(proxy: Proxy) -> None:
    with connect(proxy) as end:
        proxy.cut()
        assert ask(end) == ANSWER[: len(ANSWER) // 2]
    with connect(proxy) as end:
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            ask(end)


def test_garbage_is_as_long_and_flipped_bits_are_few(proxy: Proxy) -> None:
    with connect(proxy) as end:
        proxy.garbage()
        got = ask(end)
        assert len(got) == len(ANSWER)
        assert got != ANSWER
        proxy.flip(0.01)
        got = ask(end)
        assert 1 <= sum(a != b for a, b in zip(got, ANSWER, strict=True)) <= 11
        proxy.change(bytes.swapcase)
        assert ask(end) == ANSWER.swapcase()


def test_what_is_open_can_be_dropped(proxy: Proxy) -> None:
    with connect(proxy) as end:
        ask(end)
        proxy.drop()
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    with connect(proxy) as end:
        assert ask(end) == ANSWER
