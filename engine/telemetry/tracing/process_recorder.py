"""The default mode: records go to the exporter process, in blocks, over a Unix socket.

A call only appends its record to a list. Every tick a thread turns what has come together into messages: `marshal` of a
block costs half of what it costs record by record, because texts that stand in all of them are written once.
"""

from __future__ import annotations

import json
import logging
import marshal
import select
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from engine.telemetry.tracing.exporter_process import ExporterProcess
from engine.telemetry.tracing.queue_recorder import QueueRecorder, spans_of
from engine.telemetry.tracing.resource import resource_of
from engine.telemetry.tracing.settings import TracingSettings
from engine.telemetry.tracing.trace_record import AnyRecord

_log = logging.getLogger("assay.tracing")
_TICK_S = 0.05
# Records in one message: some 75 microseconds of work under the interpreter lock, which a call may have to wait for.
_BLOCK = 32
_SEND_WAIT_MS = 100
_RECONNECT_FIRST_S, _RECONNECT_MAX_S = 0.05, 2.0
_SEND_BUFFER_BYTES = 1024**2
# Messages by their first byte. The exporter's only message is a JSON object.
HELLO, RECORDS, FLUSH = b"H", b"R", b"F"
MESSAGE_BYTES_MAX = 256 * 1024


class ProcessRecorder(QueueRecorder):
    """See `Recorder`."""

    def __init__(
        self,
        settings: TracingSettings,
        *,
        resource: Mapping[str, Any] | None = None,
        address: str | None = None,
    ) -> None:
        """address: of an exporter process that runs already; None starts one, which ends with this recorder.

        Raises OSError when none can be started.
        """
        self._settings, self._extra = settings, resource
        self._own = ExporterProcess(settings) if address is None else None
        self._address = address if self._own is None else self._own.address
        self._socket: socket.socket | None = None
        self._message_bytes_max = MESSAGE_BYTES_MAX
        self._link_lost()
        super().__init__(settings.queue_bytes_max, _TICK_S)

    def _link_lost(self) -> None:
        """Sets everything that belongs to one connection, or to one process, to its beginning."""
        self._reply: dict[str, int] = {}
        self._sent_spans = self._lost_spans = self._lost_connections = 0
        self._flush_sent = self._flush_replied = 0
        self._connect_after_s, self._reconnect_s = 0.0, _RECONNECT_FIRST_S

    @property
    def exporter(self) -> ExporterProcess | None:
        """The exporter process, where it is this recorder's own."""
        return self._own

    def _begin(self) -> None:
        self._connect()

    def _connect(self) -> bool:
        """Whether there is a connection now. Tries again at growing intervals."""
        if self._socket is not None:
            return True
        if time.monotonic() < self._connect_after_s or self._address is None:
            return False
        link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            # A message must fit the buffer, and the system may give less than it is asked for.
            self._message_bytes_max = min(MESSAGE_BYTES_MAX, link.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2)
            link.setblocking(False)
            link.connect(self._address)
            link.send(HELLO + json.dumps(resource_of(self._settings, self._extra)).encode())
        except OSError as error:
            link.close()
            self._connect_after_s = time.monotonic() + self._reconnect_s
            self._reconnect_s = min(_RECONNECT_MAX_S, self._reconnect_s * 2)
            _log.debug("no connection to the trace exporter", extra={"error": str(error)})
            return False
        self._reconnect_s = _RECONNECT_FIRST_S
        self._socket = link
        self._flush_sent = self._flush_replied = self._flush_done
        return True

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self._lost_connections += 1
            # At most: what it said was waiting there, and what it had not spoken of yet.
            self._lost_spans += max(0, self._sent_spans - self._reply.get("spans", 0))
            self._lost_spans += self._reply.get("queue_spans", 0) + self._reply.get("batch_spans", 0)
            self._sent_spans, self._reply = 0, {}
            self._connect_after_s = time.monotonic() + self._reconnect_s

    def _ship(self, records: list[AnyRecord]) -> None:
        blocks = [records[at : at + _BLOCK] for at in range(0, len(records), _BLOCK)]
        for done, block in enumerate(blocks):
            if not self._ship_block(block):
                with self._lock:
                    # Back to the front of the queue, to wait for an exporter that reads.
                    self._waiting[:0] = [one for later in blocks[done:] for one in later]
                return

    def _ship_block(self, block: list[AnyRecord]) -> bool:
        """Whether the block has found its end: sent, or not fit to be sent."""
        try:
            message = RECORDS + marshal.dumps(block)
        except ValueError as error:
            message = b""
            _log.warning("a trace record cannot be passed on", extra={"error": str(error)})
        if not message or len(message) > self._message_bytes_max:
            if len(block) > 1:
                half = len(block) // 2
                first, second = block[:half], block[half:]
                # What is left of them when the exporter does not read is what is left of the block.
                first_done = self._ship_block(first)
                second_done = first_done and self._ship_block(second)
                block[:] = [*([] if first_done else first), *([] if second_done else second)]
                return second_done
            with self._lock:
                self._dropped_spans += spans_of(block)
            self._shipped(block)
            return True
        if not self._send(message):
            return False
        self._sent_spans += spans_of(block)
        self._shipped(block)
        return True

    def _send(self, message: bytes) -> bool:
        if not self._connect() or self._socket is None:
            return False
        for last in (False, True):
            try:
                self._socket.send(message)
            except BlockingIOError:
                if not last:
                    poll = select.poll()
                    poll.register(self._socket, select.POLLOUT)
                    poll.poll(_SEND_WAIT_MS)
            except OSError as error:
                _log.debug("the connection to the trace exporter is lost", extra={"error": str(error)})
                self._disconnect()
                return False
            else:
                return True
        return False

    def _settle(self, asked: int) -> bool:
        if asked > self._flush_sent and not self._waiting_now() and self._send(FLUSH + str(asked).encode()):
            self._flush_sent = asked
        self._read_replies()
        return self._flush_replied >= asked

    def _waiting_now(self) -> bool:
        with self._lock:
            return bool(self._waiting)

    def _read_replies(self) -> None:
        while self._socket is not None:
            try:
                content = self._socket.recv(MESSAGE_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError:
                content = b""
            if not content:
                self._disconnect()
                return
            with suppress(ValueError):
                reply = json.loads(content)
                self._flush_replied = max(self._flush_replied, reply.pop("flushed", 0))
                self._reply = reply

    def _end(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self, timeout_s: float) -> None:
        """See `Recorder.close`."""
        end_s = time.monotonic() + timeout_s
        super().close(timeout_s)
        if self._own is not None:
            self._own.close(max(0.2, end_s - time.monotonic()))

    def _abandon(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._own = None
        self._link_lost()

    def stats(self) -> dict[str, int]:
        """See `Recorder.stats`. What the exporter process counted is for all who share it, a second old at most, and
        begins anew with a new one."""
        own = {
            "exporter_lost_spans": self._lost_spans,
            "exporter_lost_connections": self._lost_connections,
            "exporter_restarts": 0 if self._own is None else self._own.restarts,
        }
        reply = {name: count for name, count in self._reply.items() if name != "spans"}
        return super().stats() | own | reply
