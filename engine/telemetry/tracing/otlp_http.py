"""OTLP over HTTP with protobuf bodies, on the standard library's client and one connection that is kept."""

from __future__ import annotations

import gzip
import http.client
import ssl
import time
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from engine.telemetry.tracing.settings import OtlpSettings
from engine.telemetry.tracing.transport import Answer, shorten, taken

# To be tried again, by OTLP's specification.
_LATER = frozenset({429, 502, 503, 504})
_RESPONSE_BYTES_MAX = 64 * 1024


class HttpTransport:
    """See `Transport`."""

    def __init__(self, settings: OtlpSettings) -> None:
        """Raises OSError for certificates that cannot be read, ValueError for an endpoint that is no URL."""
        url = urlsplit(settings.endpoint)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"{settings.endpoint!r} is no http or https URL")
        self._host, self._port = url.hostname, url.port
        self._path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        self._gzip = settings.compression == "gzip"
        self._headers = {"User-Agent": "assay-otlp", **dict(settings.headers)}
        self._headers["Content-Type"] = "application/x-protobuf"
        if self._gzip:
            self._headers["Content-Encoding"] = "gzip"
        self._tls: ssl.SSLContext | None = None
        if url.scheme == "https":
            self._tls = ssl.create_default_context(cafile=settings.certificate)
            if settings.client_certificate is not None:
                self._tls.load_cert_chain(settings.client_certificate, settings.client_key)
        self._connection: http.client.HTTPConnection | None = None

    def _connect(self, timeout_s: float) -> http.client.HTTPConnection:
        if self._tls is not None:
            return http.client.HTTPSConnection(self._host, self._port, timeout=timeout_s, context=self._tls)
        return http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)

    def send(self, body: bytes, timeout_s: float) -> Answer:
        """See `Transport.send`."""
        if self._gzip:
            body = gzip.compress(body, compresslevel=1, mtime=0)
        deadline_s = time.monotonic() + timeout_s
        kept = self._connection is not None
        try:
            try:
                return self._attempt(body, timeout_s)
            except (ConnectionError, http.client.BadStatusLine):
                # A collector closes a connection that was idle; that says nothing of it.
                self.close()
                if not kept:
                    raise
                return self._attempt(body, max(0.1, deadline_s - time.monotonic()))
        except (OSError, http.client.HTTPException) as error:
            self.close()
            return Answer("later", shorten(f"{type(error).__name__}: {error}"))

    def _attempt(self, body: bytes, timeout_s: float) -> Answer:
        if self._connection is None:
            self._connection = self._connect(timeout_s)
        connection = self._connection
        connection.timeout = timeout_s
        if connection.sock is not None:
            connection.sock.settimeout(timeout_s)
        connection.request("POST", self._path, body, self._headers)
        response = connection.getresponse()
        content = response.read(_RESPONSE_BYTES_MAX)
        if not response.isclosed():  # more than anybody wants to read
            self.close()
        if 200 <= response.status < 300:
            return taken(content)
        message = shorten(f"HTTP {response.status} {response.reason}")
        if response.status in _LATER:
            return Answer("later", message, _wait_s(response.headers.get("Retry-After")))
        return Answer("refused", message)

    def close(self) -> None:
        """See `Transport.close`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _wait_s(text: str | None) -> float | None:
    """`Retry-After`: seconds, or a date."""
    if not text:
        return None
    if text.strip().isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
