"""Logs: one JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

from engine.telemetry.tracing.call import current

_STANDARD = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime", "taskName"}
_own_levels: set[str] = set()


class JsonFormatter(logging.Formatter):
    """Time, level, logger, message, what was given as `extra`, and the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
        # Written by the thread that makes the call: a line about it names its trace without being told.
        if "trace_id" not in line and (call := current.call) is not None:
            line["trace_id"] = call.context.trace_id.hex()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def configure_logs(level: str, levels: Mapping[str, str] | None = None, stream: TextIO | None = None) -> None:
    """Sends all logs to a stream (standard error) at a level: debug, info, warning or error. levels: of single loggers,
    by name. May be called again while logs are written."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_levels(level, levels)


def set_levels(level: str, levels: Mapping[str, str] | None = None) -> None:
    """Changes the levels, at once and for all threads. Loggers that had one of their own and are not named any more go
    by the general one again."""
    logging.getLogger().setLevel(level.upper())
    wanted = dict(levels or {})
    for name in _own_levels - wanted.keys():
        logging.getLogger(name).setLevel(logging.NOTSET)
    for name, own in wanted.items():
        logging.getLogger(name).setLevel(own.upper())
    _own_levels.clear()
    _own_levels.update(wanted)
