"""The Prometheus endpoint: GET /metrics, /ready (or /healthz) and /live, and nothing else. No TLS and no accounts: it
listens on the loopback unless told otherwise, and shows no personal data.
"""

from __future__ import annotations

import gzip
import logging
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from engine.telemetry.metrics.snapshot import Snapshot
from engine.telemetry.metrics.text import OPENMETRICS_TYPE, PLAIN_TYPE, families, wants_openmetrics

_log = logging.getLogger("assay.metrics")
_TIMEOUT_S = 5.0
# Between two metrics: a call that waits for the interpreter gets it.
_PAUSE_S = 0.0001


class Endpoint:
    """Serves what `snapshot` gives. Connections are bounded in number and in time; one too many is closed at once."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        host: str = "127.0.0.1",
        port: int = 9464,
        *,
        healthy: Callable[[], bool] = lambda: True,
        alive: Callable[[], bool] = lambda: True,
        connections_max: int = 8,
    ) -> None:
        """snapshot: ready to be shown (`Metrics.finished`, `GroupMetrics.finished`). port: 0 for any that is free.
        healthy, alive: what /ready (which is /healthz too) and /live answer 200 or 503 by. Raises OSError for an
        address that is taken."""
        self._snapshot, self._healthy, self._alive = snapshot, healthy, alive
        self._free = threading.BoundedSemaphore(connections_max)
        self._scraping = threading.Lock()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        server = type("_Server", (_Server,), {"address_family": family})
        self._server: _Server = server((host, port), _handler(self), self._free)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics-http", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._server.server_address[1]
        return port

    def stop(self) -> None:
        """Closes it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(_TIMEOUT_S)

    def page(self, openmetrics: bool) -> bytes:
        """What /metrics answers. One at a time: two that scrape at once cost no more than one after the other."""
        with self._scraping:
            pieces = []
            for piece in families(self._snapshot(), openmetrics):
                pieces.append(piece)
                time.sleep(_PAUSE_S)
            return "".join(pieces).encode("utf-8", "replace")

    def healthy(self) -> bool:
        """What /ready and /healthz go by."""
        return self._healthy()

    def alive(self) -> bool:
        """What /live goes by."""
        return self._alive()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Requests under way must not hold up the end of the process.
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: Any, free: threading.BoundedSemaphore) -> None:
        self._free = free
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A scraper that goes away in the middle is no news.
        _log.debug("a scrape failed", exc_info=True)


def _handler(endpoint: Endpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version = "assay"
        sys_version = ""
        timeout = _TIMEOUT_S  # of each wait on the socket

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                openmetrics = wants_openmetrics(self.headers.get("Accept", ""))
                self._say(200, OPENMETRICS_TYPE if openmetrics else PLAIN_TYPE, endpoint.page(openmetrics))
            elif path in ("/ready", "/healthz"):
                good = endpoint.healthy()
                self._say(200 if good else 503, "text/plain; charset=utf-8", b"ok\n" if good else b"not ready\n")
            elif path == "/live":
                good = endpoint.alive()
                self._say(200 if good else 503, "text/plain; charset=utf-8", b"ok\n" if good else b"not alive\n")
            else:
                there = b"/metrics, /ready, /healthz and /live are all there is\n"
                self._say(404, "text/plain; charset=utf-8", there)

        do_HEAD = do_GET

        def _say(self, status: int, kind: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            if len(content) > 1024 and "gzip" in self.headers.get("Accept-Encoding", ""):
                content = gzip.compress(content, compresslevel=1, mtime=0)
                self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing: there is one every few seconds."""

    return Handler
