"""How an attempt that had a hedge says that both failed."""

from __future__ import annotations

from assay.client.errors import AssayError
from assay.client.hosts import Host


class Failed(Exception):
    """error: of the last attempt that failed, on `host`."""

    def __init__(self, host: Host, error: AssayError) -> None:
        super().__init__(error.message)
        self.host, self.error = host, error
