"""A worker process: `python -m engine.supervisor.worker_main CHANNEL`, where CHANNEL is an inherited socket.

Started by the supervisor, never by hand. It reads the settings itself: one that follows another takes new ones.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.bootstrap import serve
from engine.bootstrap_levels import reread_levels_on_hup
from engine.config import Config, load_config
from engine.errors import AssayError, BundleError, ConfigError
from engine.supervisor.channel import Channel
from engine.supervisor.member import Member
from engine.telemetry.logs import configure_logs


def main() -> None:
    """See the module."""
    link = socket.socket(fileno=int(sys.argv[1]))
    link.set_inheritable(False)
    channel = Channel(link)
    facts = channel.receive()
    if facts is None:
        return
    code = 1
    try:
        _serve(channel, facts)
        code = 0
    except AssayError as error:
        kind = "settings" if isinstance(error, ConfigError) else "bundle" if isinstance(error, BundleError) else "other"
        problems = [[p.file, p.place, p.message, p.fix] for p in getattr(error, "problems", ())]
        channel.send("failed", kind=kind, error=str(error)[:4000], problems=problems[:100])
    except Exception as error:
        logging.getLogger("assay.workers").exception("a worker failed")
        channel.send("failed", kind="other", error=f"{type(error).__name__}: {error}"[:4000], problems=[])
    # All is drained, written and closed, or cannot be. See `engine.cli.serve`.
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)


def _serve(channel: Channel, facts: Mapping[str, Any]) -> None:
    file = None if facts["file"] is None else Path(facts["file"])
    if facts["cores"]:
        os.sched_setaffinity(0, facts["cores"])
    config = _own(load_config(file), facts)
    configure_logs(config.log.level, config.log.levels)
    name = str(facts["name"])
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: _name(record, name))
    reread_levels_on_hup(lambda: load_config(file))
    member = Member(channel, facts)
    serve(config, None, file, member)


def _own(config: Config, facts: Mapping[str, Any]) -> Config:
    """The settings as this worker goes by them."""
    server = config.server.model_copy(
        update={"address": facts["address"], "connection_age_s": facts["connection_age_s"]}
    )
    record = config.record.model_copy(update={"worker": facts["name"]})
    return config.model_copy(update={"server": server, "record": record})


def _name(record: logging.LogRecord, name: str) -> bool:
    """Has each line say which worker it is from."""
    if not hasattr(record, "worker"):
        record.worker = name
    return True


if __name__ == "__main__":
    main()
