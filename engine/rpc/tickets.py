"""The ticket of a call on its way from gRPC's serving thread to the thread that answers it, and what a refusal says."""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple

import grpc

from engine.admission.gate import Refused, Ticket
from engine.errors import Refusal
from engine.rpc.status import code_of, status_of

# Set when a call arrives. gRPC runs the handler in the same context, so it is the call's own, whatever thread it is on.
arrived: ContextVar[Ticket | None] = ContextVar("arrived", default=None)

_MESSAGES = {
    "limit": "The server has as much to do as it can answer in time; retry after the delay given.",
    "batch_share": "Batches make room for single decisions now; retry after the delay given.",
    "other_share": "Too many calls around the decisions are under way; retry after the delay given.",
    "quota": "The tenant's quota of decisions is used up; retry after the delay given.",
    "deadline": "No decision is made in the time that the deadline leaves; allow more.",
    "deadline_queue": "The deadline ends before the calls that are ahead are answered; retry after the delay given.",
}
_KEPT_MAX = 1024
_REASONS = {"quota": "QUOTA_EXCEEDED", "deadline": "DEADLINE_TOO_SHORT"}


def delay_ms(refused: Refused) -> int:
    """After how long to try again, to two digits, so that refusals that say the same are made once; 0: not at all."""
    if refused.retry_s is None:
        return 0
    exact_ms = refused.retry_s * 1000
    step = 1 if exact_ms < 100 else 10 if exact_ms < 1000 else 100
    return max(1, round(exact_ms / step) * step)


def refusal(refused: Refused) -> Refusal:
    """What a caller is told."""
    why = refused.why
    return Refusal(_REASONS.get(why, "OVERLOADED"), _MESSAGES[why], {"cause": why}, delay_ms(refused) or None)


class Said(NamedTuple):
    """A refusal in gRPC's words. number: of the code; details: the message in bytes; trailing: the metadata that goes
    with it."""

    reason: str
    code: grpc.StatusCode
    number: int
    message: str
    details: bytes
    trailing: tuple[tuple[str, bytes], ...]


class Sayings:
    """What callers are told, made once and kept: refusing has to cost next to nothing. They differ in their cause and
    their delay to two digits; a few dozen are in use."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int], Said] = {}

    def of(self, refused: Refused) -> Said:
        """What this refusal says."""
        key = (refused.why, delay_ms(refused))
        said = self._kept.get(key)
        if said is None:
            if len(self._kept) >= _KEPT_MAX:
                self._kept.clear()
            error = refusal(refused)
            status = status_of(error)
            trailing = (("grpc-status-details-bin", status.SerializeToString()),)
            code, text = code_of(error.reason), status.message
            said = self._kept[key] = Said(error.reason, code, status.code, text, text.encode(), trailing)
        return said


def check_begin(ticket: Ticket, left_s: float | None) -> None:
    """A call's turn has come. left_s: until its deadline. Raises Refusal for one that was refused on its way, or that
    cannot be answered in time any more."""
    if ticket.refused is None and (left_s is None or ticket.can_begin(left_s)):
        return
    assert ticket.refused is not None
    raise refusal(ticket.refused)


def charge(ticket: Ticket, items: int) -> None:
    """A batch turns out to hold so many. Raises Refusal when the tenant's quota has not that many left."""
    refused = ticket.charge(items)
    if refused is not None:
        raise refusal(refused)
