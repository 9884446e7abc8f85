"""Sends outcomes to a server, for the command that loads files of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from assay.outcome.v1 import outcome_pb2
from assay.outcome.v1 import outcome_service_pb2 as pb
from assay.outcome.v1 import outcome_service_pb2_grpc as stubs
from engine.errors import AssayError

_MESSAGE_ITEMS = 200
# A server takes at most 4 MiB; notes have at most 1,000 characters of at most four bytes.
_MESSAGE_BYTES = 1 << 20


class SendError(AssayError):
    """The server cannot be reached, or ended the stream."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM: the CA of the server's certificate, and the caller's own certificate and key."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None


@dataclass(slots=True)
class Sent:
    """What came of it so far. rejected: row, reason and message of each outcome that was not taken."""

    acknowledged: int = 0
    recorded: int = 0
    already: int = 0
    rejected: list[tuple[int, str]] = field(default_factory=list)


def send(
    address: str,
    outcomes: Iterable[tuple[int, outcome_pb2.Outcome]],
    *,
    allow_unknown: bool = False,
    tls: Tls | None = None,
) -> Iterator[Sent]:
    """Sends outcomes with their positions, which must rise; gives what came of them after every acknowledgement. Raises
    SendError, OSError for files of TLS that cannot be read, and what `outcomes` raises, after all before it."""
    so_far, ended = Sent(), list[Exception]()
    with _channel(address, tls) as channel:
        stub = stubs.OutcomeServiceStub(channel)
        try:
            for answer in stub.RecordOutcomes(_messages(outcomes, allow_unknown, ended)):
                so_far.acknowledged = answer.acknowledged_position
                so_far.recorded += answer.recorded
                so_far.already += answer.already_recorded
                so_far.rejected += [(one.position, one.error.message) for one in answer.rejected]
                yield so_far
        except grpc.RpcError as error:
            raise SendError(f"{address} answered {error.code().name}: {error.details()}") from error
    if ended:
        raise ended[0]


def _channel(address: str, tls: Tls | None) -> grpc.Channel:
    if tls is None:
        return grpc.insecure_channel(address)
    key = None if tls.key is None else tls.key.read_bytes()
    certificate = None if tls.certificate is None else tls.certificate.read_bytes()
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(tls.ca.read_bytes(), key, certificate))


def _messages(
    outcomes: Iterable[tuple[int, outcome_pb2.Outcome]], allow_unknown: bool, ended: list[Exception]
) -> Iterator[pb.RecordOutcomesRequest]:
    """Messages of outcomes. What `outcomes` raises goes to `ended`: gRPC would only cancel the stream."""
    held, size = pb.RecordOutcomesRequest(allow_unknown=allow_unknown), 0
    try:
        for position, outcome in outcomes:
            held.outcomes.add(position=position, outcome=outcome)
            size += outcome.ByteSize()
            if len(held.outcomes) >= _MESSAGE_ITEMS or size >= _MESSAGE_BYTES:
                yield held
                held, size = pb.RecordOutcomesRequest(allow_unknown=allow_unknown), 0
    except Exception as error:
        ended.append(error)
    if held.outcomes:
        yield held
