"""One request on its way to an answer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from assay.decision.v1.decision_service_pb2 import DecideRequest
from engine.domain.facts import Row
from engine.pipeline import Prepared
from engine.served import Asked, ChosenArm, Serves


@dataclass(slots=True, eq=False)
class Claim:
    """A request that this call is to decide, and what has become of it.

    asked: what is known of its call; index: its place in a batch, None where it is the call's only one. payload: the
    serialised application, digest: of it. result: the serialised Decision, or why there is none.
    """

    request: DecideRequest
    request_key: bytes
    payload: bytes
    digest: bytes
    serving: Serves
    arm: ChosenArm
    start_ns: int
    asked: Asked
    index: int | None = None
    prepared: Prepared | None = None
    rows: Sequence[Row] = field(default_factory=tuple)
    result: bytes | BaseException | None = None

    @property
    def ready(self) -> Prepared:
        """What `prepare` gave."""
        assert self.prepared is not None
        return self.prepared


def plain_digest(payload: bytes) -> bytes:
    """SHA-256, for a log without a master key; with one its keyed digest is used."""
    return hashlib.sha256(payload).digest()
