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
        with own:
            aside = listeners > 1 and _step_aside(own, port, listeners)
            if aside:
                _settle(own)
            whole = whole and aside
            with suppress(OSError):
                own.shutdown(socket.SHUT_RD)
    return whole


def share_evenly(port: int) -> None:
    """Takes the program away that another process's leaving has left: all that listen get their share again."""
    for own in _listening(port):
        with own, suppress(OSError):
            own.setsockopt(socket.SOL_SOCKET, _DETACH, 0)


def connections(port: int) -> int:
    """How many connections this process has that came to a port."""
    count = 0
    for one in _sockets(port):
        with one, suppress(OSError):
            one.getpeername()
            count += 1
    return count


def _step_aside(own: socket.socket, port: int, listeners: int) -> bool:
    try:
        for place in range(listeners):
            with _attached(own, [(_RETURN, 0, 0, place)]):
                # Twice: where there is no such place the kernel chooses by itself.
                if not (_comes_back(own, port) and _comes_back(own, port)):
                    continue
            _attach(own, _all_but(place, listeners))
            return True
    except OSError as error:
        _log.warning("the kernel cannot be told to spare a worker", extra={"error": str(error)})
    else:
        _log.warning("a worker does not find its place at the port", extra={"listeners": listeners})
    with suppress(OSError):
        own.setsockopt(socket.SOL_SOCKET, _DETACH, 0)
    return False


def _all_but(place: int, listeners: int) -> list[_Instruction]:
    return [
        (_LOAD, 0, 0, _RANDOM),
        (_MODULO, 0, 0, listeners - 1),
        (_IF_AT_LEAST, 0, 1, place),
        (_ADD, 0, 0, 1),
        (_RETURN_A, 0, 0, 0),
    ]


def _attach(own: socket.socket, program: list[_Instruction]) -> None:
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in program))
    own.setsockopt(socket.SOL_SOCKET, _ATTACH, struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))


@contextmanager
def _attached(own: socket.socket, program: list[_Instruction]) -> Iterator[None]:
    _attach(own, program)
    try:
        yield
    finally:
        own.setsockopt(socket.SOL_SOCKET, _DETACH, 0)


def _comes_back(own: socket.socket, port: int) -> bool:
    """Whether a connection that is made now is this process's."""
    host = str(own.getsockname()[0]).removeprefix("::ffff:")
    host = "127.0.0.1" if host in ("::", "0.0.0.0") else host
    with socket.create_connection((host, port), timeout=_SEEN_WITHIN_S) as probe:
        mine = probe.getsockname()[1]
        end_s = time.monotonic() + _SEEN_WITHIN_S
        while True:
            for one in _sockets(port):
                with one, suppress(OSError):
                    if one.getpeername()[1] == mine:
                        return True
            if time.monotonic() >= end_s:
                return False
            time.sleep(_LOOK_EVERY_S)


def _settle(own: socket.socket) -> None:
    """Waits until what was on its way to a socket has come and been accepted."""
    time.sleep(_SETTLE_S)
    end_s = time.monotonic() + _SETTLE_MOST_S
    while time.monotonic() < end_s:
        information = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        if not struct.unpack_from("I", information, _UNACKED_AT)[0]:
            return
        time.sleep(_LOOK_EVERY_S)


def _listening(port: int) -> list[socket.socket]:
    found = []
    for one in _sockets(port):
        if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            found.append(one)
        else:
            one.close()
    return found


def _sockets(port: int) -> Iterator[socket.socket]:
    """Copies of all sockets of this process whose own end is at a port; whoever gets one closes it. gRPC has made them
    and shows them to nobody."""
    seen = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            copy = os.dup(int(name))
        except OSError:  # closed meanwhile
            continue
        try:
            one = socket.socket(fileno=copy)
        except OSError:  # no socket
            os.close(copy)
            continue
        # A copy has the number of a file that was closed meanwhile, and may be met again.
        identity = os.fstat(copy).st_ino
        with suppress(OSError, IndexError):
            if identity not in seen and one.family in (socket.AF_INET, socket.AF_INET6) and _port(one) == port:
                seen.add(identity)
                yield one
                continue
        one.close()


def _port(one: socket.socket) -> int:
    number: int = one.getsockname()[1]
    return number
