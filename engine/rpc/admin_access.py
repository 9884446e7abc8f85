"""Who may change what is served: whoever reaches the loopback address, or who has a certificate with a listed name."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import grpc

from engine.errors import Refusal

_NAMES = ("x509_common_name", "x509_subject_alternative_name")
_is_loopback = re.compile(r"unix:.+|(127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\]|localhost):\d+").fullmatch


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach an address."""
    return _is_loopback(address) is not None


class AdminAccess:
    """names: of the certificates that may (common name or alternative name). Without any, callers need none: the
    address must be one that only this machine reaches."""

    def __init__(self, names: Collection[str] = ()) -> None:
        self._names = frozenset(names)

    def identity_of(self, context: grpc.ServicerContext) -> str:
        """The listed name in the caller's certificate; without a list any name there is, "" without a certificate.
        Raises Refusal for who may not."""
        # What gRPC says of the certificate, which it has checked; never what the caller says of itself.
        known: Any = context.auth_context()
        found: list[str] = [name.decode(errors="replace") for kind in _NAMES for name in known.get(kind, ())]
        if not self._names:
            return found[0] if found else ""
        for name in found:
            if name in self._names:
                return name
        raise Refusal("NOT_PERMITTED", "No name in the caller's certificate may change what is served (admin.names).")
