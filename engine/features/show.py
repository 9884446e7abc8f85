"""What a store holds of one view of one entity, by name, as a decision would read it at a moment. Pure but for the
look-up of schemas."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.domain.enums import FeatureStatus
from engine.domain.facts import UNREAD, NoRow
from engine.features.encoding import STATE_MAGIC, RowError, row_fingerprint
from engine.features.evolve import RowTranslator, SchemaLookup, describe
from engine.features.gather import gather
from engine.features.plan import Feature, ViewPlan
from engine.features.row_schema import RowSchema
from engine.features.store import StoreCorrupt, event_time_of
from engine.features.velocity.by_name import DescribedState, describe_state
from engine.features.velocity.layout import state_fingerprint
from engine.features.writing.plan import ReadingView

# A value by name: a category as its name, a moment as seconds since 1970 UTC.
Named = float | int | bool | str | None


@dataclass(frozen=True, slots=True)
class ShownFeature:
    """One feature. value: for PRESENT and STALE, else None; kind: as the catalogue names it; max_age_us: None when it
    never ages."""

    name: str
    status: FeatureStatus
    value: Named
    kind: str
    unit: str
    max_age_us: int | None


@dataclass(slots=True)
class ShownView:
    """One view. fingerprint: of the row's schema, b"" without a row and for counters; event_time_us: of the row, or of
    the newest event counted, None without; stored: a row of another schema by its own names, with that schema; state:
    what the counters' state is; note: what else there is to know."""

    view: str
    key: bytes
    status: FeatureStatus
    counters: bool
    features: list[ShownFeature] = field(default_factory=list)
    fingerprint: bytes = b""
    event_time_us: int | None = None
    stored: dict[str, Named] | None = None
    stored_schema: RowSchema | None = None
    state: DescribedState | None = None
    note: str = ""


def show_view(
    reading: ReadingView, key: bytes, row: bytes | NoRow | None, now_us: int, lookup: SchemaLookup
) -> ShownView:
    """One view at a moment. row: as the store gave it; UNREAD where it could not. lookup: finds recorded schemas; it
    may raise StoreError."""
    plan = reading.plan
    shown = ShownView(reading.name, key, FeatureStatus.UNAVAILABLE, counters=bool(plan.counted))
    if isinstance(row, bytes):
        try:
            if row[: len(STATE_MAGIC)] == STATE_MAGIC:
                shown.state = describe_state(row, _found(lookup(state_fingerprint(row))))
                shown.event_time_us = shown.state.newest_us
            else:
                _look_at(row, shown, plan.views[0], lookup)
        except (RowError, StoreCorrupt) as error:
            shown.note = str(error)
    facts = gather(plan, [row], (), (), 0.0, 0.0, now_us)
    shown.status = facts.view_statuses[0]
    shown.features = [
        _feature(feature, FeatureStatus(code), value)
        for feature, code, value in zip(plan.features, facts.statuses.tolist(), facts.read.tolist(), strict=True)
    ]
    if row is UNREAD:
        shown.note = "the store failed or was late"
    elif shown.status is FeatureStatus.UNAVAILABLE and not shown.note:
        ahead = shown.event_time_us is not None and shown.event_time_us > now_us
        shown.note = "its event time lies in the future" if ahead else "it cannot be used"
    return shown


def _look_at(row: bytes, shown: ShownView, view: ViewPlan, lookup: SchemaLookup) -> None:
    """What a row says of itself; and where it is of another schema, what it holds by its own names. Raises RowError,
    StoreCorrupt."""
    shown.fingerprint = row_fingerprint(row)
    shown.event_time_us = event_time_of(row)
    if shown.fingerprint == view.decoder.schema.fingerprint:
        return
    described = describe(row, lookup)
    shown.stored, shown.stored_schema = described.values, described.schema
    shown.note = "written with another schema and read by name"
    if view.translators.get(shown.fingerprint) is None:
        view.translators[shown.fingerprint] = RowTranslator(described.schema, view.decoder.schema)


def _found(canonical: bytes | None) -> list[bytes]:
    return [] if canonical is None else [canonical]


def _feature(feature: Feature, status: FeatureStatus, number: float) -> ShownFeature:
    value: Named = None
    if status in (FeatureStatus.PRESENT, FeatureStatus.STALE) and number == number:
        value = _named(feature, number)
    return ShownFeature(feature.name, status, value, feature.kind, feature.unit, feature.max_age_us)


def _named(feature: Feature, number: float) -> Named:
    if feature.kind == "category":
        return feature.categories[int(number)]
    if feature.kind == "boolean":
        return number != 0.0
    return int(number) if feature.kind == "integer" else number
