"""The key of a request among all requests."""

from __future__ import annotations


def request_key(tenant: str, request_id: str) -> bytes:
    """A request id is its tenant's own: two tenants may use the same. Neither holds a NUL. A server without tenants
    uses "" for all."""
    return f"{tenant}\0{request_id}".encode()
