"""Takes bundles in: from a directory of the server's machine, or as they are sent."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from assay.admin.v1 import traffic_pb2 as pb
from engine.clock import new_decision_id
from engine.errors import FieldViolation, Refusal, RequestError
from engine.traffic.control import TrafficControl
from engine.traffic.errors import changed_meanwhile, not_recorded
from engine.traffic.messages import change_record, moment
from engine.traffic.model import Author, ChangeKind, Traffic
from engine.traffic.registry import Stored
from engine.traffic.trial import Tried, try_bundle
from engine.traffic.unpack import unpack_zip


@dataclass(frozen=True, slots=True)
class Taken:
    """A bundle that is in the registry now. known: whether it was before."""

    bundle: Stored
    known: bool
    scenarios: int
    notes: tuple[str, ...]


class BundleIntake:
    """Checks bundles wholly, in a process of their own, and keeps those without a mistake.

    directories: below which paths are allowed; bytes_max: of one bundle's files together.
    """

    def __init__(
        self,
        control: TrafficControl[Any],
        directories: Sequence[Path] = (),
        bytes_max: int = 1 << 30,
        check: Callable[[Path], Tried] = try_bundle,
    ) -> None:
        self._control, self._bytes_max, self._check = control, bytes_max, check
        self._directories = tuple(directory.resolve() for directory in directories)

    def take_path(self, path: str, author: Author) -> Taken:
        """Takes the bundle of a directory in. Raises RequestError, Refusal, BundleError."""
        root = Path(path)
        if not path or "\0" in path or not root.is_absolute():
            raise RequestError([FieldViolation("path", "must be an absolute path on the server's machine")])
        try:
            root = root.resolve()
        except (OSError, RuntimeError) as error:
            raise RequestError([FieldViolation("path", "leads nowhere")]) from error
        if not any(root.is_relative_to(allowed) for allowed in self._directories):
            raise Refusal(
                "PATH_NOT_ALLOWED",
                "The server's settings do not allow bundles from there (admin.bundle_directories); send it instead.",
            )
        return self._take(root, author)

    def take_zip(self, content: BinaryIO, author: Author) -> Taken:
        """Takes a bundle in that was sent. Raises as `take_path`."""
        with tempfile.TemporaryDirectory(prefix="assay-upload-") as scratch:
            root = Path(scratch) / "bundle"
            unpack_zip(content, root, self._bytes_max)
            return self._take(root, author)

    def _take(self, root: Path, author: Author) -> Taken:
        control, registry = self._control, self._control.registry
        with registry.incoming(root) as incoming:
            tried = self._check(incoming.path)
            with control.lock():
                served = control.current()
                if author.expected_generation not in (None, served.generation):
                    raise changed_meanwhile(served.generation, author.expected_generation or 0)
                now_us = time.time_ns() // 1000
                draft = Stored(incoming.digest, tried.name, tried.version, tried.flows, incoming.bytes, now_us)
                record = change_record(
                    ChangeKind.LOAD, author, new_decision_id(now_us), now_us, bundle=bundle_message(draft)
                )
                control.log_change(record)
                try:
                    stored, known = registry.keep(incoming, tried.name, tried.version, tried.flows)
                    registry.prune({*served.kept, stored.digest})
                except OSError as error:
                    raise not_recorded(f"the bundle cannot be kept ({error.strerror})") from error
        return Taken(stored, known, tried.scenarios, tried.notes)


def bundle_message(stored: Stored, traffic: Traffic | None = None) -> pb.BundleInfo:
    """A bundle of the registry as a message, with its roles in what is served."""
    message = pb.BundleInfo(
        digest=stored.digest,
        name=stored.name,
        version=stored.version,
        flows=stored.flows,
        loaded_at=moment(stored.loaded_us),
        bytes=stored.bytes,
    )
    if stored.served_us:
        message.served_at.FromMicroseconds(stored.served_us)
    if traffic is not None:
        message.roles.extend(role for digest, role in traffic.uses() if digest == stored.digest)
        message.roles.extend(["previous"] if traffic.previous == stored.digest else [])
        message.roles.extend(["configured"] if traffic.configured == stored.digest else [])
    return message
