"""Compiles the counters that a catalogue declares: what reads their states, and what adds events to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.bundle.schema import FeaturesFile


def counters_of(file: FeaturesFile, view: str) -> Callable[[bytes, int], Sequence[float]] | None:
    """What reads a view's counters at a moment from a state; None for a view that is not counted."""
    return None
