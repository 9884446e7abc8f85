"""An application that has passed validation."""

from __future__ import annotations

from typing import NamedTuple


class ValidApplication(NamedTuple):
    """Everything a flow needs of an application, in its own units and order.

    amount_minor: whole minor units of the flow's currency; entity_ids: the subject's id, then one for each of the
    flow's entities, None for those not named; request: the request fields in slot order, NaN for those not sent;
    sent: (slot, value) of view features that the caller sent; submitted_at_us: None when not stated.
    """

    request_id: str
    language: str
    amount_minor: int
    term_months: int
    entity_ids: tuple[str | None, ...]
    request: tuple[float, ...]
    sent: tuple[tuple[int, float], ...]
    submitted_at_us: int | None
