"""Compiles the counters that a catalogue declares."""

from __future__ import annotations

from engine.bundle.schema import FeaturesFile
from engine.features.velocity.definition import Counter, VelocityView


def velocity_view(file: FeaturesFile, name: str) -> VelocityView | None:
    """The counters of a view; None for one that is not counted, or that is not counted as a whole."""
    view = file.views[name]
    counters = [
        Counter(feature, entry.counter.what, entry.counter.of or "", entry.counter.window)
        for feature, entry in view.features.items()
        if entry.counter is not None
    ]
    if not counters or len(counters) < len(view.features):
        return None
    return VelocityView(name, view.entity, tuple(counters))


def velocity_views(file: FeaturesFile) -> tuple[VelocityView, ...]:
    """All views of a catalogue that are counted."""
    found = (velocity_view(file, name) for name in file.views)
    return tuple(view for view in found if view is not None)
