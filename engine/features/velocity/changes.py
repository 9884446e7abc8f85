"""From events to changes of states: what a store's `update` is given, and what became of each event afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

from engine.features.encoding import RowCorrupt, RowOtherSchema
from engine.features.store import key_maker
from engine.features.velocity.by_name import translate
from engine.features.velocity.definition import Event, VelocityView, check_event, hash_of
from engine.features.velocity.layout import Layout
from engine.features.velocity.state import Entry, Outcome, add_events

_TIME, _ID = 0, 1


@dataclass(slots=True)
class Tally:
    """How often an event was counted for an entity, known already, too late, or met a state that cannot be read. An
    event that names three entities with counters is three of these."""

    new: int = 0
    duplicates: int = 0
    too_late: int = 0
    unreadable: int = 0

    def add(self, outcome: Outcome) -> None:
        """One more."""
        if outcome is Outcome.NEW:
            self.new += 1
        elif outcome is Outcome.DUPLICATE:
            self.duplicates += 1
        elif outcome is Outcome.TOO_LATE:
            self.too_late += 1
        elif outcome is Outcome.UNREADABLE:
            self.unreadable += 1


class _Keeper:
    """What keeps the states of one view. slots: where in an event's numbers each of its columns stands."""

    __slots__ = ("_others", "entity", "key", "layout", "pack", "pick")

    def __init__(self, view: VelocityView, slots: Mapping[str, int]) -> None:
        self.entity, self.layout = view.entity, view.layout
        self.key = key_maker(view.entity, view.view)
        layout = view.layout
        columns = (*(_amount(name) for name in layout.amounts), *layout.others)
        self.pick = itemgetter(_TIME, *(slots[name] for name in columns), _ID)
        self.pack = layout.event.pack
        self._others: dict[bytes, Layout] = {}

    def learn(self, other: Layout) -> bool:
        """Take note of other columns that held states may have. False when they are another view's."""
        if (other.view, other.entity) != (self.layout.view, self.layout.entity):
            return False
        self._others[other.fingerprint] = other
        return True

    def add(self, held: bytes | None, entries: Sequence[Entry]) -> tuple[bytes | None, list[Outcome]]:
        """As `add_events`, to a state of any columns that are known."""
        try:
            return add_events(held, entries, self.layout)
        except RowOtherSchema as e:
            other = self._others.get(e.fingerprint)
            if held is None or other is None:
                raise
            return add_events(translate(held, other, self.layout), entries, self.layout)


class VelocityChange:
    """What becomes of the state of one entity: a `Change` of engine.features.store.

    A store may call it again with what another writer put there, so `outcomes` (one for each of `places`) are those of
    the last call, which is the one that the store kept. A state that cannot be read is left alone: an empty one in its
    place would make a busy entity look new. unknown: the fingerprint of the columns that the last call did not know.
    """

    __slots__ = ("_counted", "_entries", "_keeper", "outcomes", "places", "unknown")

    def __init__(self, keeper: _Keeper, place: int, entry: Entry) -> None:
        self._keeper = keeper
        self._entries = [entry]
        self._counted: frozenset[int] = frozenset()
        # Where each of the events stands in the sequence that `Definitions.changes` was given.
        self.places = [place]
        self.outcomes: list[Outcome] = []
        self.unknown: bytes | None = None

    def take(self, place: int, entry: Entry) -> None:
        """One more event."""
        self.places.append(place)
        self._entries.append(entry)

    def __call__(self, held: bytes | None) -> bytes | None:
        self.unknown = None
        try:
            changed, outcomes = self._keeper.add(held, self._entries)
        except RowOtherSchema as e:
            self.unknown = e.fingerprint
            self.outcomes = [Outcome.UNREADABLE] * len(self._entries)
            return None
        except RowCorrupt:
            self.outcomes = [Outcome.UNREADABLE] * len(self._entries)
            return None
        for i in self._counted:
            if outcomes[i] is Outcome.DUPLICATE:
                outcomes[i] = Outcome.NEW
        self.outcomes = outcomes
        return changed

    def failed(self) -> None:
        """The update failed and will be made again. It may have been kept all the same: then what it counted is found
        there the next time, and is new nevertheless."""
        self._counted |= {i for i, outcome in enumerate(self.outcomes) if outcome is Outcome.NEW}
        self.outcomes = []


class Definitions:
    """All views that are counted. Raises ValueError for one that stands twice."""

    def __init__(self, views: Iterable[VelocityView]) -> None:
        self.views = tuple(views)
        if len({view.view for view in self.views}) != len(self.views):
            raise ValueError("a view of counters stands twice")
        # The numbers of an event: its time, the hash of its id, and every amount and other entity of these views.
        self._amounts = tuple(sorted({name for view in self.views for name in view.layout.amounts}))
        self._others = tuple(sorted({entity for view in self.views for entity in view.layout.others}))
        names = (*(_amount(name) for name in self._amounts), *self._others)
        slots = {name: slot for slot, name in enumerate(names, start=_ID + 1)}
        self._keepers = tuple(_Keeper(view, slots) for view in self.views)
        self._makers = tuple((keeper.entity, keeper.key) for keeper in self._keepers)

    @property
    def schemas(self) -> tuple[tuple[bytes, bytes], ...]:
        """(fingerprint, canonical form) of each view's columns, for `FeatureStore.put_schema`."""
        return tuple((view.fingerprint, view.canonical) for view in self.views)

    def learn(self, canonical: bytes) -> bool:
        """Take note of other columns that held states may have, from their canonical form. False when they are no
        columns of these views."""
        try:
            other = Layout.parse(canonical)
        except ValueError:
            return False
        return any([keeper.learn(other) for keeper in self._keepers])

    def keys(self, event: Event) -> list[bytes]:
        """The keys of the states that an event changes. Raises ValueError for an event that cannot be kept: its time,
        an amount or an id of one of these entities is out of bounds."""
        check_event(event)
        entities = event.entities
        return [key(entities[entity]) for entity, key in self._makers if entity in entities]

    def changes(self, events: Sequence[Event]) -> list[tuple[bytes, VelocityChange]]:
        """What to update so that these events count: one change for each key. Raises ValueError as `keys` does."""
        found: dict[bytes, VelocityChange] = {}
        for place, event in enumerate(events):
            check_event(event)
            event_id, time_us, entities, amounts = event
            hashed = hash_of(event_id)
            numbers = [time_us, hashed]
            numbers += [amounts.get(name, 0) for name in self._amounts]
            numbers += [hash_of(entities[entity]) if entity in entities else 0 for entity in self._others]
            for keeper in self._keepers:
                entity_id = entities.get(keeper.entity)
                if entity_id is None:
                    continue
                key = keeper.key(entity_id)
                entry = Entry(time_us, hashed, keeper.pack(*keeper.pick(numbers)))
                change = found.get(key)
                if change is None:
                    found[key] = VelocityChange(keeper, place, entry)
                else:
                    change.take(place, entry)
        return list(found.items())


def _amount(name: str) -> str:
    """An amount among the columns, where it may have the name of an entity."""
    return f"amount {name}"


def tally_of(changes: Iterable[tuple[bytes, VelocityChange]]) -> Tally:
    """What became of all events, entity by entity, after an update."""
    tally = Tally()
    for _, change in changes:
        for outcome in change.outcomes:
            tally.add(outcome)
    return tally


def outcomes_of(changes: Iterable[tuple[bytes, VelocityChange]], count: int) -> list[Outcome]:
    """What became of each of `count` events as a whole, after an update: NEW when it counts anew for one of its
    entities; else DUPLICATE when one of them knew it; else TOO_LATE, or UNREADABLE; UNCOUNTED without any."""
    order = (Outcome.NEW, Outcome.DUPLICATE, Outcome.TOO_LATE, Outcome.UNREADABLE, Outcome.UNCOUNTED)
    rank = {outcome: i for i, outcome in enumerate(order)}
    ranks = [len(order) - 1] * count
    for _, change in changes:
        for place, outcome in zip(change.places, change.outcomes, strict=True):
            ranks[place] = min(ranks[place], rank[outcome])
    return [order[i] for i in ranks]
