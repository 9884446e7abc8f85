"""Encodes what writers have (values by name) as the rows that the bundle's views read."""

from __future__ import annotations

from collections.abc import Mapping

from engine.bundle.compile_features import Catalogue, view_schema
from engine.features.encoding import encode
from engine.features.store import Row, row_key


class RowWriter:
    """Makes rows of a catalogue's views."""

    def __init__(self, catalogue: Catalogue) -> None:
        views = catalogue.file.views
        self._schemas = {name: view_schema(name, view) for name, view in views.items()}
        self._entities = {name: view.entity for name, view in views.items()}

    def row(self, view: str, entity_id: str, values: Mapping[str, object | None], event_time_us: int) -> Row:
        """One row for `FeatureStore.write`. Raises KeyError for an unknown view, ValueError for values that do not fit
        it (unknown names, wrong types, NaN)."""
        value = encode(self._schemas[view], values, event_time_us)
        return Row(row_key(self._entities[view], entity_id, view), value, event_time_us)
