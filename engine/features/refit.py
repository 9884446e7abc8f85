"""What was known at a decision, carried into another bundle's plan by the names of the features:

- A feature of both, of the same kind and unit (a whole number is a number; a unit that one of them does not state is
  no clash), keeps its value. Categories go by name; a name that the other catalogue does not list is UNAVAILABLE, as
  it is when a row holds one. So is a value outside the other catalogue's range.
- Its age is held against the other catalogue's maximum: what was fresh may be STALE there, and what was stale PRESENT.
- What the record does not have (a new feature, or one that changed its kind or unit) has the status `absent`,
  NOT_FOUND unless told otherwise, so that the other catalogue's own rule for it applies. Where the application names
  no such entity, the catalogue's rule for that applies.
- What was WITHHELD stays so: its value is in no record. Consents and expiries of the other catalogue come on top.
- Derived features are never carried into derived features: they are worked out anew.

Pure: no store, no clock.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np

from engine.domain.enums import FeatureStatus, ValueOrigin
from engine.domain.facts import ByteArray, Facts, FloatArray
from engine.features.plan import Feature, FeaturePlan, ViewPlan
from engine.features.read_row import Seen
from engine.features.rebuild import Asked, Known, at_terms, known_of, settle, unnamed_slots
from engine.features.rules import expire, withhold

__all__ = ["Asked", "Known", "Note", "Refit", "at_terms", "known_of"]

NAN = float("nan")
# Plain numbers: to ask an enum for a member is a call.
_PRESENT, _, _NOT_FOUND, _STALE, _UNAVAILABLE, _WITHHELD = (int(status) for status in FeatureStatus)
_CALLER = int(ValueOrigin.CALLER)
# By number; there is none of number zero.
_STATUSES = (FeatureStatus.NULL, *FeatureStatus)
_NEVER_US = 2**62


class Note(NamedTuple):
    """A value that was not carried as it is: the feature, and why in a few words that are the same for all such."""

    feature: str
    why: str


class Refit:
    """Carries what was known with one slot list into another plan. Threads may call it at once.

    notes: the features of the plan that are used and that the slot list does not have as they are, and why.
    """

    def __init__(
        self, catalogue_json: bytes, plan: FeaturePlan, absent: FeatureStatus = FeatureStatus.NOT_FOUND
    ) -> None:
        """catalogue_json: the slot list that the facts were had with, as plans and journals keep it
        (`FeaturePlan.catalogue_json`). absent: NOT_FOUND or UNAVAILABLE, the status of what it does not have. Raises
        ValueError for anything else, and for bytes that are no slot list."""
        if absent not in (_NOT_FOUND, _UNAVAILABLE):
            raise ValueError(f"what is not recorded is NOT_FOUND or UNAVAILABLE, not {absent.name}")
        try:
            listing = json.loads(catalogue_json)
            entries: list[dict[str, Any]] = listing["features"]
            views = {view["name"]: place for place, view in enumerate(listing["views"])}
            places = {entry["name"]: place for place, entry in enumerate(entries)}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"the slot list cannot be read: {error!r}") from error
        self._plan, self._absent, self._count = plan, int(absent), len(entries)
        self._lower, self._upper = plan.lower.tolist(), plan.upper.tolist()
        self._expiring = {expiry.slot: expiry.then for expiry in plan.expiries}
        self._places: list[int] = []
        self._source_views: list[int] = []
        self._codes: dict[int, tuple[float, ...]] = {}
        self._ages_us: list[int] = []
        notes = []
        for slot, feature in enumerate(plan.features[: plan.derived_start]):
            place = places.get(feature.name, -1)
            why = "not recorded" if place < 0 else _clash(entries[place], feature)
            if why and feature.used:
                notes.append(Note(feature.name, why))
            place = -1 if why else place
            self._places.append(place)
            self._source_views.append(-1 if place < 0 else views.get(entries[place]["view"], -1))
            self._ages_us.append(_NEVER_US if feature.max_age_us is None else feature.max_age_us)
            if place >= 0 and feature.kind == "category" and tuple(entries[place]["categories"]) != feature.categories:
                codes = {name: float(code) for code, name in enumerate(feature.categories)}
                self._codes[slot] = tuple(codes.get(name, NAN) for name in entries[place]["categories"])
        self.notes = tuple(notes)
        # Each view of the plan, the recorded row of its name (-1 for none), and the rows that its features came from.
        self._rows: list[tuple[ViewPlan, int, tuple[int, ...]]] = []
        for view in plan.views:
            held = sorted(set(self._source_views[view.start : view.start + view.count]) - {-1})
            self._rows.append((view, views.get(view.name, -1), tuple(held)))

    def facts(self, known: Known, asked: Asked, notes: list[Note] | None = None) -> Facts:
        """The facts as the other plan has them. notes: is added what of this record could not be carried as it is.
        Raises ValueError for what does not fit the slot list."""
        plan, now_us = self._plan, asked.now_us
        if not len(known.values) == len(known.statuses) == len(known.origins) == self._count:
            raise ValueError(f"{len(known.values)} values for {self._count} features")
        seen = Seen({}, {}, {}, {}, unnamed_slots(plan, asked), [])
        read, had, sources = known.values.tolist(), known.statuses.tolist(), known.origins.tolist()
        times = known.event_times_us
        values, statuses = [NAN] * plan.count, [_PRESENT] * plan.count
        sent: set[int] = set()
        for slot, place in enumerate(self._places):
            if place < 0:
                statuses[slot] = _NOT_FOUND if slot in seen.unnamed else self._absent
                continue
            status, value = had[place], read[place]
            if slot in self._codes and value == value:
                value = self._recoded(slot, value)
                if value != value:
                    status = _UNAVAILABLE
                    _add(notes, plan.features[slot], "category not listed")
            called = sources[place] == _CALLER
            if called and slot < plan.request_start:
                sent.add(slot)
            view = -1 if called else self._source_views[slot]
            age = 0 if view < 0 else now_us - times[view]
            if status == _PRESENT and age <= self._ages_us[slot] and self._lower[slot] <= value <= self._upper[slot]:
                values[slot] = value
                continue
            values[slot], statuses[slot] = self._aged(slot, value, status, age, seen, notes)
            if status == _WITHHELD and self._silenced(slot, known):
                seen.expired[slot] = self._expiring[slot]
                if not called:
                    seen.ages[slot] = age
        return self._settle(known, np.array(values), np.array(statuses, dtype=np.uint8), sent, seen, asked)

    def _settle(
        self, known: Known, values: FloatArray, statuses: ByteArray, sent: set[int], seen: Seen, asked: Asked
    ) -> Facts:
        """The plan's own consents, expiries, rules and derived features."""
        plan, origins = self._plan, self._plan.origins_template
        if sent:
            origins = origins.copy()
            origins[list(sent)] = _CALLER
        views, times = self._views(statuses, known)
        withhold(plan, values, statuses, views, times, seen)
        expire(plan, values, statuses, times, sent, asked.now_us, seen)
        return settle(plan, values, statuses, origins, seen, tuple(views), tuple(times), asked)

    def _silenced(self, slot: int, known: Known) -> bool:
        """Whether the law took a value away, and not a consent that lacks: that takes whole views."""
        source = self._source_views[slot]
        return slot in self._expiring and source >= 0 and known.view_statuses[source] != _WITHHELD

    def _recoded(self, slot: int, value: float) -> float:
        codes = self._codes[slot]
        return codes[int(value)] if 0 <= value < len(codes) else NAN

    def _aged(
        self, slot: int, value: float, status: int, age_us: int, seen: Seen, notes: list[Note] | None
    ) -> tuple[float, int]:
        """A value and its status by this plan's range and age."""
        feature = self._plan.features[slot]
        inside = self._lower[slot] <= value <= self._upper[slot]
        old = age_us > self._ages_us[slot]
        if status == _UNAVAILABLE and inside and not old:
            seen.last_good[slot], seen.ages[slot] = value, age_us
        if status not in (_PRESENT, _STALE) or value != value:
            if status == _STALE:
                seen.ages[slot] = age_us
            return NAN, _UNAVAILABLE if status == _PRESENT else status
        if old:
            if status == _PRESENT:
                _add(notes, feature, "older than this catalogue allows")
            if inside:
                seen.stale[slot] = value
            seen.ages[slot] = age_us
            return NAN, _STALE
        if not inside:
            _add(notes, feature, "out of range")
            return NAN, _UNAVAILABLE
        if status == _STALE:
            _add(notes, feature, "fresh enough for this catalogue")
        return value, _PRESENT

    def _views(self, statuses: ByteArray, known: Known) -> tuple[list[FeatureStatus], list[int]]:
        """A status and an event time for each view: those of the row of this name, or else of those that its features
        came from; STALE when any of its features is."""
        found, times, codes = [], [], statuses.tolist()
        for view, own, others in self._rows:
            sources = (own,) if own >= 0 else others
            rows = {known.view_statuses[source] for source in sources}
            held = codes[view.start : view.start + view.count]
            if _STALE in held:
                status = _STALE
            elif len(rows) == 1 and _STALE not in rows:
                (status,) = rows
            else:
                status = _PRESENT if _PRESENT in held else held[0]
            found.append(_STATUSES[status])
            times.append(min([known.event_times_us[source] for source in sources], default=0))
        return found, times


def _add(notes: list[Note] | None, feature: Feature, why: str) -> None:
    if notes is not None and feature.used:
        notes.append(Note(feature.name, why))


def _clash(entry: dict[str, Any], feature: Feature) -> str:
    """Why a recorded feature is not the plan's; empty when it is."""
    if entry["type"] != feature.kind and (entry["type"], feature.kind) != ("integer", "float"):
        return f"is of type {entry['type']} in the record and {feature.kind} here"
    if entry["unit"] and feature.unit and entry["unit"] != feature.unit:
        return f"is in {entry['unit']} in the record and in {feature.unit} here"
    return ""
