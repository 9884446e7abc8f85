"""The process that ships the journal, and how it goes."""

from __future__ import annotations

import sys
from pathlib import Path

from engine.config import Config
from engine.shipping.process import ShipperProcess
from engine.shipping.state import ShipperStatus
from engine.telemetry.metrics.snapshot import Snapshot


def open_shipper_process(config: Config, file: Path | None) -> ShipperProcess:
    """What ships in a process of its own, not started. file: the settings file."""
    options = [] if file is None else ["--config", str(file)]
    command = [sys.executable, "-m", "engine.cli", "record", "ship", "--with-parent", *options]
    return ShipperProcess(config.record.path, command)


def put_shipping(status: ShipperStatus, snapshot: Snapshot) -> None:
    """Adds how shipping goes to a snapshot of the metrics."""
    snapshot.put("assay.ship.waiting", (), status.waiting_bytes)
    snapshot.put("assay.ship.oldest", (), status.oldest_waiting_s)
    snapshot.put("assay.ship.failing", (), int(status.failing_since is not None))
    for event in ("shipped_frames", "shipped_decisions", "expired", "damage", "dropped_segments", "failures"):
        snapshot.put("assay.ship.events", (event,), getattr(status, event))
