"""The levels of logs, changed while the process runs."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable

from engine.config import Config, load_config
from engine.errors import ConfigError
from engine.telemetry.logs import set_levels

_log = logging.getLogger("assay.telemetry")


def set_levels_from(read: Callable[[], Config]) -> None:
    """Has the logs go by the settings as they are now. Those that cannot be used change nothing, and are logged."""
    try:
        log = read().log
    except ConfigError as error:
        _log.error("the settings cannot be used, log levels stay", extra={"problems": [str(p) for p in error.problems]})
        return
    set_levels(log.level, log.levels)
    _log.warning("log levels", extra={"level": log.level, "levels": dict(log.levels)})


def reread_levels_on_hup(read: Callable[[], Config] = load_config) -> None:
    """Has SIGHUP read the settings of the logs again."""
    signal.signal(signal.SIGHUP, lambda *_: set_levels_from(read))
