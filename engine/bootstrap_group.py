"""What a serving process has of the group of workers that it is one of: of its supervisor, that is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Group(Protocol):
    """A worker's side of the group.

    trace_address: of the exporter process that all workers send their traces to; None: the worker has one of its own.
    snapshots: the directory where metrics are left for the supervisor to add up.
    """

    trace_address: str | None
    snapshots: Path

    def loaded(self, stop: threading.Event) -> None:
        """Says that the bundle is in service, and waits until all workers' are, or until it is time to end (`stop`)."""

    def serving(
        self, port: int, publish: Callable[[], None], lead: Callable[[], None], rest: Callable[[], None]
    ) -> None:
        """Says that calls are answered on a port. publish: leaves the metrics of this moment; lead: begins what one
        worker of a group does for all; rest: ends that."""

    def follow(self, stop: threading.Event) -> None:
        """From now on `stop` is set when the supervisor wants the process to end, or is gone."""
