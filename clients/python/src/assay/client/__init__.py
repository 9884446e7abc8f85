"""A client of Assay: retries with a budget, deadlines, several hosts, hedging, traces, typed errors.

    from assay.client import Client, Options

    with Client("assay-a:50051,assay-b:50051", Options(timeout_s=1.0)) as client:
        decision = client.decide(application, request_id="los-2026-000417")

`AsyncClient` is the same for asyncio. docs/client.md is the reference.
"""

from __future__ import annotations

from assay.client import errors
from assay.client.aio import AsyncClient
from assay.client.batch import Outcome
from assay.client.calls import new_request_id
from assay.client.errors import AssayError, FieldViolation
from assay.client.hedging import Hedge
from assay.client.hosts import Ejection
from assay.client.options import Options, Tls
from assay.client.retrying import Budget, Retry, Then, then
from assay.client.sync import Client

__all__ = [
    "AssayError",
    "AsyncClient",
    "Budget",
    "Client",
    "Ejection",
    "FieldViolation",
    "Hedge",
    "Options",
    "Outcome",
    "Retry",
    "Then",
    "Tls",
    "errors",
    "new_request_id",
    "then",
]
