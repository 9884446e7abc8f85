"""What a person asks of a supervisor: `assay workers ...`, over a socket beside the journal that its owner alone can
reach. One question a connection, one answer, each a JSON object."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from engine.errors import AssayError

FILE_NAME = "workers.sock"
_MESSAGE_BYTES_MAX = 64 * 1024
_WAITING_MAX = 8


class ControlSocket:
    """The supervisor's side; belongs to its one thread."""

    def __init__(self, directory: Path) -> None:
        """Raises OSError. Only for who holds the supervisor's lock: what a dead one left is taken away."""
        self._path = directory / FILE_NAME
        self._path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with _short(directory) as place:
            self.listener.bind(f"{place}/{FILE_NAME}")
        self._path.chmod(0o600)
        self.listener.listen(_WAITING_MAX)
        self.listener.setblocking(False)

    def accept(self) -> Question | None:
        """Who asks; None when it has gone again."""
        try:
            link, _ = self.listener.accept()
            link.settimeout(1.0)
            said = json.loads(link.recv(_MESSAGE_BYTES_MAX) or b"{}")
        except (OSError, ValueError):
            return None
        return Question(link, str(said.get("ask", "")))

    def close(self) -> None:
        """Harmless when repeated."""
        self.listener.close()
        self._path.unlink(missing_ok=True)


class Question:
    """One who waits for an answer."""

    def __init__(self, link: socket.socket, what: str) -> None:
        self._link, self.what = link, what

    def answer(self, **facts: Any) -> None:
        """Answers, and is done."""
        with suppress(OSError):
            self._link.send(json.dumps(facts).encode()[:_MESSAGE_BYTES_MAX])
        self._link.close()


def ask(directory: Path, what: str, timeout_s: float) -> dict[str, Any]:
    """Asks the supervisor whose workers write to a journal. Raises AssayError when there is none, or no answer."""
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with link:
        link.settimeout(timeout_s)
        try:
            with _short(directory) as place:
                link.connect(f"{place}/{FILE_NAME}")
            link.send(json.dumps({"ask": what}).encode())
            content = link.recv(_MESSAGE_BYTES_MAX)
        except TimeoutError as error:
            raise AssayError(f"the supervisor has not answered for {timeout_s:g} s") from error
        except OSError as error:
            message = f"no supervisor can be reached at {directory / FILE_NAME} ({error.strerror})"
            fix = "Is `assay serve` running with server.workers > 1 and the same record.path?"
            raise AssayError(f"{message}. {fix}") from error
    if not content:
        raise AssayError("the supervisor ended before it answered")
    answer: dict[str, Any] = json.loads(content)
    return answer


@contextmanager
def _short(directory: Path) -> Iterator[str]:
    """A short name of a directory: the name of a socket holds 107 bytes."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
