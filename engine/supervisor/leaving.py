"""How a worker gives its place at the shared port up without losing a connection.

The kernel spreads new connections over all sockets that listen on the port (SO_REUSEPORT). A socket that is closed
takes those with it that were given to it and not accepted yet: their callers see them reset. So the worker first has
the kernel give it no more (a classic BPF program that chooses among the others), waits until those on their way have
been accepted, and closes then. For its place among the sockets it looks itself: the program sends everything to one
place after another, and the worker sees when a connection of its own comes back to it.

Where that cannot be had the socket is closed all the same: then a connection that comes in this very moment is reset.
"""

from __future__ import annotations

import ctypes
import logging
import os
import socket
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_log = logging.getLogger("assay.workers")
_ATTACH, _DETACH = 51, 68  # SO_ATTACH_REUSEPORT_CBPF, SO_DETACH_REUSEPORT_BPF
# Instructions: A = the word at k (k names a random number); A %= k; skip one unless A >= k; A += k; return k; return A.
_LOAD, _MODULO, _IF_AT_LEAST, _ADD, _RETURN, _RETURN_A = 0x20, 0x94, 0x35, 0x04, 0x06, 0x16
_RANDOM = 0xFFFFF000 + 56
_SEEN_WITHIN_S, _LOOK_EVERY_S = 0.25, 0.01
# Handshakes under way are as long as a round trip to the caller.
_SETTLE_S, _SETTLE_MOST_S = 0.3, 3.0
_UNACKED_AT = 24  # in struct tcp_info; of a socket that listens, the connections that wait to be accepted

_Instruction = tuple[int, int, int, int]


def leave(port: int, listeners: int) -> bool:
    """Ends listening on a port in this process; its connections stay. listeners: how many processes listen on it.

    False when it could not be kept from losing connections that come in this moment.
    """
    whole = True
    for own in _listening(port):
        aside = listeners > 1 and _step_aside(own, port, listeners)
        if aside:
            _settle(own)
        whole = whole and aside
        with suppress(OSError), _borrowed(own) as one:
            one.shutdown(socket.SHUT_RD)
    return whole


def share_evenly(port: int) -> None:
    """Takes the program away that another process's leaving has left: all that listen get their share again."""
    for own in _listening(port):
        _detach(own)


def connections(port: int) -> int:
    """How many connections this process has that came to a port."""
    return sum(peer is not None for _, peer in _sockets(port))


def _step_aside(own: int, port: int, listeners: int) -> bool:
    try:
        for place in range(listeners):
            _attach(own, [(_RETURN, 0, 0, place)])
            # Twice: where there is no such place the kernel chooses by itself.
            if _comes_back(own, port) and _comes_back(own, port):
                _attach(own, _all_but(place, listeners))
                return True
    except OSError as error:
        _log.warning("the kernel cannot be told to spare a worker", extra={"error": str(error)})
    else:
        _log.warning("a worker does not find its place at the port", extra={"listeners": listeners})
    _detach(own)
    return False


def _all_but(place: int, listeners: int) -> list[_Instruction]:
    return [
        (_LOAD, 0, 0, _RANDOM),
        (_MODULO, 0, 0, listeners - 1),
        (_IF_AT_LEAST, 0, 1, place),
        (_ADD, 0, 0, 1),
        (_RETURN_A, 0, 0, 0),
    ]


def _attach(own: int, program: list[_Instruction]) -> None:
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in program))
    with _borrowed(own) as one:
        one.setsockopt(socket.SOL_SOCKET, _ATTACH, struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))


def _detach(own: int) -> None:
    with suppress(OSError), _borrowed(own) as one:
        one.setsockopt(socket.SOL_SOCKET, _DETACH, 0)


def _comes_back(own: int, port: int) -> bool:
    """Whether a connection that is made now is this process's."""
    with _borrowed(own) as one:
        host = str(one.getsockname()[0]).removeprefix("::ffff:")
    host = "127.0.0.1" if host in ("::", "0.0.0.0") else host
    with socket.create_connection((host, port), timeout=_SEEN_WITHIN_S) as probe:
        mine = probe.getsockname()[1]
        end_s = time.monotonic() + _SEEN_WITHIN_S
        while not any(peer == mine for _, peer in _sockets(port)):
            if time.monotonic() >= end_s:
                return False
            time.sleep(_LOOK_EVERY_S)
    return True


def _settle(own: int) -> None:
    """Waits until what was on its way to a socket has come and been accepted."""
    time.sleep(_SETTLE_S)
    end_s = time.monotonic() + _SETTLE_MOST_S
    while time.monotonic() < end_s:
        with _borrowed(own) as one:
            information = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        if not struct.unpack_from("I", information, _UNACKED_AT)[0]:
            return
        time.sleep(_LOOK_EVERY_S)


def _listening(port: int) -> list[int]:
    return [fd for fd, peer in _sockets(port) if peer is None]


@contextmanager
def _borrowed(fd: int) -> Iterator[socket.socket]:
    """A socket of gRPC's, which has made it and shows it to nobody. It stays gRPC's. Nor is a copy made: to close the
    copy of a file, should that be what the number stands for by now, would end the locks that this process has on it.
    Raises OSError for what is no socket."""
    one = socket.socket(fileno=fd)
    try:
        yield one
    finally:
        one.detach()


def _sockets(port: int) -> Iterator[tuple[int, int | None]]:
    """All sockets of this process whose own end is at a port, each with the port of the other end; None for one that
    listens."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with _borrowed(int(name)) as one:
                if one.family not in (socket.AF_INET, socket.AF_INET6) or one.getsockname()[1] != port:
                    continue
                listens = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                peer = None if listens else int(one.getpeername()[1])
            yield int(name), peer
