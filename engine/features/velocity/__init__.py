"""Velocity: counts, sums, distinct counts and times since over the events of an entity, kept by the engine itself.

    declared                 kept                                          read
    Counter, VelocityView -> VelocityApplier -> VelocityChange -> state -> VelocityReader
    (definition.py)          (applier.py)       (changes.py)     (state.py)  (reader.py)

One state for each view and entity, in any feature store, under the key of the view's row. All but the applier is pure.
"""

from __future__ import annotations

from engine.features.velocity.applier import Position, VelocityApplier
from engine.features.velocity.by_name import DescribedState, describe_state
from engine.features.velocity.changes import Definitions, Tally, VelocityChange, outcomes_of, tally_of
from engine.features.velocity.definition import (
    AMOUNT_SCALE,
    MAX_AMOUNT,
    WHATS,
    WINDOWS_S,
    Counter,
    Event,
    VelocityView,
    What,
    check_event,
)
from engine.features.velocity.layout import Layout, is_state, state_fingerprint
from engine.features.velocity.reader import VelocityReader
from engine.features.velocity.state import EXACT_MAX, Outcome, max_bytes
from engine.features.velocity.updater import TTL_S, Stats

__all__ = [
    "AMOUNT_SCALE",
    "EXACT_MAX",
    "MAX_AMOUNT",
    "TTL_S",
    "WHATS",
    "WINDOWS_S",
    "Counter",
    "Definitions",
    "DescribedState",
    "Event",
    "Layout",
    "Outcome",
    "Position",
    "Stats",
    "Tally",
    "VelocityApplier",
    "VelocityChange",
    "VelocityReader",
    "VelocityView",
    "What",
    "check_event",
    "describe_state",
    "is_state",
    "max_bytes",
    "outcomes_of",
    "state_fingerprint",
    "tally_of",
]
