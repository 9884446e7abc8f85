"""The server of changes: an address of its own, so that nobody who may ask for decisions may change how they are made.

One worker process of a host serves it; what it changes, all follow.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc

from engine.errors import ConfigError, Problem
from engine.rpc.admin_access import is_loopback
from engine.rpc.admin_servicer import ADMIN_SERVICE, AdminServicer, admin_handlers
from engine.rpc.reflection import enable_reflection

_log = logging.getLogger("assay.admin")
_THREADS, _WAITING_MAX = 4, 16
_MESSAGE_BYTES_MAX = 4 << 20


@dataclass(frozen=True, slots=True)
class AdminServerSettings:
    """What an operator chooses. names: see `AdminAccess`."""

    address: str = "127.0.0.1:50052"
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    names: tuple[str, ...] = ()


class AdminServer:
    """Listens from the constructor on; answers from `start` on."""

    def __init__(self, servicer: AdminServicer, settings: AdminServerSettings) -> None:
        """Raises ConfigError for an address or files that cannot be used, and where anybody could make changes."""
        _check(settings)
        self._server = grpc.server(
            ThreadPoolExecutor(_THREADS, thread_name_prefix="admin"),
            options=[("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX), ("grpc.so_reuseport", 0)],
            maximum_concurrent_rpcs=_THREADS + _WAITING_MAX,
        )
        self._server.add_generic_rpc_handlers((admin_handlers(servicer),))
        enable_reflection((ADMIN_SERVICE, "grpc.reflection.v1alpha.ServerReflection"), self._server)
        self.port = self._bind(settings)

    def _bind(self, settings: AdminServerSettings) -> int:
        credentials = _credentials(settings)
        try:
            if credentials is not None:
                return self._server.add_secure_port(settings.address, credentials)
            return self._server.add_insecure_port(settings.address)
        except (RuntimeError, ValueError) as error:
            fix = "Another program may hold the port: choose another address, or end it."
            problem = Problem("settings", "admin.address", f"cannot listen on {settings.address!r}", fix)
            raise ConfigError([problem]) from error

    def start(self) -> None:
        """Begins to answer."""
        self._server.start()
        _log.info("changes are taken", extra={"port": self.port})

    def stop(self, grace_s: float = 2.0) -> None:
        """Ends, letting changes under way finish for a while. Harmless when repeated."""
        self._server.stop(grace_s).wait()


def _check(settings: AdminServerSettings) -> None:
    problems = []
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        problems.append(_problem("tls_certificate", "goes together with tls_key", "Set both, or neither."))
    if settings.tls_client_ca is not None and settings.tls_key is None:
        problems.append(_problem("tls_client_ca", "needs tls_certificate and tls_key", "Set them."))
    if settings.names and settings.tls_client_ca is None:
        fix = "Set tls_client_ca: without it callers show no certificate."
        problems.append(_problem("names", "cannot be checked", fix))
    if not is_loopback(settings.address) and not (settings.tls_client_ca and settings.names):
        message = (
            f"{settings.address!r} can be reached from other machines, and anybody there could change what is served"
        )
        problems.append(_problem("address", message, "Listen on 127.0.0.1, or set tls_client_ca and names."))
    if problems:
        raise ConfigError(problems)


def _credentials(settings: AdminServerSettings) -> grpc.ServerCredentials | None:
    content: dict[str, bytes] = {}
    problems = []
    for name in ("tls_certificate", "tls_key", "tls_client_ca"):
        path: Path | None = getattr(settings, name)
        try:
            if path is not None:
                content[name] = path.read_bytes()
        except OSError as error:
            problems.append(_problem(name, f"{str(path)!r} cannot be read ({error.strerror})", "Name a PEM file."))
    if problems:
        raise ConfigError(problems)
    if "tls_key" not in content:
        return None
    ca = content.get("tls_client_ca")
    return grpc.ssl_server_credentials([(content["tls_key"], content["tls_certificate"])], ca, ca is not None)


def _problem(setting: str, message: str, fix: str) -> Problem:
    return Problem("settings", f"admin.{setting}", message, fix)
