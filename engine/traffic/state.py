"""The file that says what is served. Every worker process of the host reads it; a change replaces it whole.

Beside it stands the version before: where the file is damaged, the last good one is served on, and that is said.
"""

from __future__ import annotations

import logging
from pathlib import Path

from google.protobuf.json_format import MessageToJson, Parse, ParseError

from assay.admin.v1 import traffic_pb2 as pb
from engine.traffic.files import DamagedFile, Replacement, Signature, read_sealed, replace_file, seal, signature_of
from engine.traffic.messages import traffic_message, traffic_of
from engine.traffic.model import Traffic

_log = logging.getLogger("assay.traffic")


def write_traffic(traffic: Traffic) -> str:
    """What is served, as text that a person can read."""
    return MessageToJson(traffic_message(traffic), indent=2) + "\n"


def parse_traffic(body: str, name: str) -> Traffic:
    """The same read back. Raises DamagedFile."""
    try:
        traffic = traffic_of(Parse(body, pb.Traffic(), ignore_unknown_fields=True))
    except (ParseError, ValueError) as error:
        raise DamagedFile(f"{name} says nothing that can be served: {error}") from error
    if traffic.generation < 1 or not traffic.default:
        raise DamagedFile(f"{name} names no generation or no default bundle")
    return traffic


class TrafficFile:
    """One process's view of the file."""

    def __init__(self, directory: Path) -> None:
        self._path, self._last = directory / "traffic.json", directory / "traffic.last.json"
        self._seen: Signature | None = None

    def changed(self) -> bool:
        """Whether there is another version of the file than was read last. Costs one `stat`."""
        signature = signature_of(self._path)
        return signature is not None and signature != self._seen

    def read(self) -> Traffic | None:
        """What it says; None without a file. Raises DamagedFile; `changed` is False until the file is another."""
        self._seen = signature_of(self._path)
        return self.peek()

    def peek(self) -> Traffic | None:
        """The same, and `changed` is as it was."""
        body = read_sealed(self._path)
        return None if body is None else parse_traffic(body, self._path.name)

    def read_last_good(self) -> Traffic | None:
        """What it says or, where it is damaged, what the version before said; None without either."""
        try:
            return self.read()
        except DamagedFile as error:
            _log.error("the file that says what is served is damaged: its last good version is used: %s", error)
        try:
            body = read_sealed(self._last)
            return None if body is None else parse_traffic(body, self._last.name)
        except DamagedFile as error:
            _log.error("the last good version of what is served is damaged, too: %s", error)
            return None

    def prepare(self, traffic: Traffic, before: Traffic | None) -> Replacement:
        """Writes the next version, not in place yet, and keeps the present one beside it. Raises OSError."""
        if before is not None:
            replace_file(self._last, seal(write_traffic(before)))
        return Replacement(self._path, seal(write_traffic(traffic)))
