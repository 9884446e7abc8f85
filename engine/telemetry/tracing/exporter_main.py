"""The exporter process: `python -m engine.telemetry.tracing.exporter_main LISTENER DIRECTORY`.

It reads its settings, one line of JSON, from standard input, takes connections on the inherited socket LISTENER, and
reads records from them. It ends when standard input has ended and no recorder is connected any more: then it sends what
it has, for at most the settings' `drain_s`, and removes DIRECTORY.

Started by `exporter_process`, never by hand.
"""

from __future__ import annotations

import json
import logging
import marshal
import os
import selectors
import shutil
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from engine.telemetry.logs import configure_logs
from engine.telemetry.tracing.output import Source
from engine.telemetry.tracing.pipeline import Pipeline
from engine.telemetry.tracing.settings import TracingSettings, from_plain
from engine.telemetry.tracing.stage_run import spans_in

_log = logging.getLogger("assay.tracing")
_HELLO, _RECORDS, _FLUSH = b"HRF"
_MESSAGE_BYTES_MAX = 512 * 1024
# So many messages of one connection are read before the others have their turn.
_MESSAGES_AT_ONCE = 16
_MESSAGES_MAX = 4096
_SPEAK_S = 1.0
_NICE = 5
_LOST = ("dropped_spans", "refused_spans", "rejected_spans", "local_failed_spans", "malformed_records")
# Recorders have their own end to come to after the owner is gone; one that hangs is not waited for for ever.
_ORPHAN_S = 3600.0


class _Connection:
    """One recorder."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.source = Source({})
        self.spans = 0
        # Flushes asked for and not answered yet, with the number of the last batch that they wait for.
        self.flushes: list[tuple[int, int]] = []


class Exporter:
    """The process's whole life, in one thread besides the sender's."""

    def __init__(self, settings: TracingSettings, listener: socket.socket, lifeline: int) -> None:
        """lifeline: a file that can be read when the owner is gone."""
        self._listener, self._lifeline, self._drain_s = listener, lifeline, settings.drain_s
        self._selector = selectors.DefaultSelector()
        self._connections: set[_Connection] = set()
        self._counts: Counter[str] = Counter()
        self._buffer = memoryview(bytearray(_MESSAGE_BYTES_MAX))
        self._orphaned_s: float | None = None
        self._settled_reader, self._settled_writer = socket.socketpair()
        self._settled_reader.setblocking(False)
        self._settled_writer.setblocking(False)
        self._pipeline = Pipeline(settings, self._on_settled)
        listener.setblocking(False)
        self._watch(listener, self._accept)
        self._watch(lifeline, self._owner_speaks)
        self._watch(self._settled_reader, self._settled)

    def _watch(self, file: socket.socket | int, then: Callable[[], None]) -> None:
        self._selector.register(file, selectors.EVENT_READ, then)

    def run(self) -> None:
        """Works until there is nobody left to work for, and sends the rest."""
        spoke_s = 0.0
        while not self._done():
            left_s = self._pipeline.batcher.poll()
            for key, _ in self._selector.select(_SPEAK_S if left_s is None else min(left_s, _SPEAK_S)):
                key.data()
            now_s = time.monotonic()
            if now_s - spoke_s >= _SPEAK_S:
                spoke_s = now_s
                for connection in list(self._connections):
                    self._speak(connection)
        self._pipeline.close(self._drain_s)
        stats = self._pipeline.stats()
        if any(stats.get(name) for name in _LOST):
            _log.warning("the trace exporter ends; some spans were lost", extra=stats)

    def _done(self) -> bool:
        if self._orphaned_s is None:
            return False
        return not self._connections or time.monotonic() - self._orphaned_s > _ORPHAN_S

    def _owner_speaks(self) -> None:
        """Or it is gone."""
        content = os.read(self._lifeline, 4096)
        self.owner_said(content)
        if not content:
            self._selector.unregister(self._lifeline)
            self._orphaned_s = time.monotonic()
            # Who connected before the owner went is still let in.
            self._accept()

    def owner_said(self, drain_s: bytes) -> None:
        """Takes what came on standard input: how long the end may take, in seconds as text, or nothing."""
        with suppress(ValueError):
            self._drain_s = float(drain_s.decode())

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                link, _ = self._listener.accept()
                link.setblocking(False)
                connection = _Connection(link)
                self._connections.add(connection)
                self._watch(link, lambda connection=connection: self._read(connection))  # type: ignore[misc]

    def _read(self, connection: _Connection, messages: int = _MESSAGES_AT_ONCE) -> None:
        for _ in range(messages):
            if connection not in self._connections:  # closed while another's flush was served
                return
            try:
                size = connection.link.recv_into(self._buffer)
            except BlockingIOError:
                return
            except OSError:
                size = 0
            if not size:
                self._selector.unregister(connection.link)
                connection.link.close()
                self._connections.discard(connection)
                return
            try:
                self._take(connection, self._buffer[0], self._buffer[1:size])
            except (ValueError, EOFError, TypeError) as error:
                self._counts["malformed_messages"] += 1
                _log.warning("a message of a recorder cannot be read", extra={"error": str(error)})

    def _take(self, connection: _Connection, kind: int, content: memoryview) -> None:
        if kind == _RECORDS:
            records = marshal.loads(content)
            connection.spans += sum([1 if record[0] is None else spans_in(record[8]) for record in records])
            self._pipeline.batcher.add(records, connection.source)
        elif kind == _HELLO:
            connection.source = Source(json.loads(bytes(content)))
        elif kind == _FLUSH:
            number = int(bytes(content))
            # What others have sent by now belongs to it: who flushes at the end of a server means all of it.
            self._accept()
            for other in self._connections - {connection}:
                self._read(other, _MESSAGES_MAX)
            self._pipeline.batcher.flush()
            sender = self._pipeline.sender
            connection.flushes.append((number, 0 if sender is None else sender.last_number))
            self._answer_flushes(connection)

    def _on_settled(self) -> None:
        """From the sender's thread."""
        with suppress(OSError):
            self._settled_writer.send(b".")

    def _settled(self) -> None:
        with suppress(BlockingIOError):
            self._settled_reader.recv(4096)
        for connection in list(self._connections):
            self._answer_flushes(connection)

    def _answer_flushes(self, connection: _Connection) -> None:
        sender = self._pipeline.sender
        done = [asked for asked, number in connection.flushes if sender is None or sender.settled(number)]
        if done:
            connection.flushes = [one for one in connection.flushes if one[0] not in done]
            self._speak(connection, max(done))

    def _speak(self, connection: _Connection, flushed: int = 0) -> None:
        """Tells a recorder what became of the spans so far."""
        stats = self._counts | Counter(self._pipeline.stats())
        said = dict(stats) | {"spans": connection.spans}
        if flushed:
            said["flushed"] = flushed
        # One that does not listen is not waited for.
        with suppress(OSError):
            connection.link.send(json.dumps(said).encode())


def main() -> None:
    """See the module."""
    configure_logs("info")
    # Calls go first where there are fewer cores than work.
    os.nice(_NICE)
    listener = socket.socket(fileno=int(sys.argv[1]))
    directory = sys.argv[2]
    line = b""
    while b"\n" not in line:
        # Unbuffered: what Python's own reader took in would be hidden from the selector.
        content = os.read(0, 65_536)
        if not content:
            return
        line += content
    line, _, drain_s = line.partition(b"\n")
    exporter = Exporter(from_plain(json.loads(line)), listener, 0)
    exporter.owner_said(drain_s)  # it may have been in a hurry
    exporter.run()
    shutil.rmtree(directory, ignore_errors=True)
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads that wait for a collector which hangs are not waited for.
    os._exit(0)


if __name__ == "__main__":
    main()
