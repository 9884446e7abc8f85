"""What goes into a replay: recorded decisions, wherever they are kept, one by one and in chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from engine.replay.outcomes import Outcome

# Rows that a worker takes at a time. A model runs up to 256 rows together.
CHUNK_ROWS = 256
CHUNK_BYTES = 8 << 20


class Item(NamedTuple):
    """One recorded decision.

    record: the serialised DecisionRecord; erased: its personal part is gone; catalogue and environment: the slot list
    and the description of the environment that it names by digest, b"" where they are lost; decided_us: microseconds
    since 1970 UTC.
    """

    decision_id: str
    record: bytes
    erased: bool
    catalogue: bytes
    environment: bytes
    decided_us: int
    flow: str


class Source(Protocol):
    """Where recorded decisions come from."""

    @property
    def name(self) -> str:
        """What a report calls it."""
        ...

    @property
    def total(self) -> int | None:
        """How many decisions there are at most; None when that is not known beforehand."""
        ...

    @property
    def damaged(self) -> int:
        """Stretches met so far that could not be read."""
        ...

    def items(self) -> Iterator[Item]:
        """All of them, each once. Raises RecordError."""
        ...


@dataclass(frozen=True, slots=True)
class Selection:
    """Which decisions to take. since_us is taken, until_us is not; flows: empty for all; limit: None for all."""

    since_us: int | None = None
    until_us: int | None = None
    flows: frozenset[str] = frozenset()
    limit: int | None = None

    def takes(self, decided_us: int, flow: str) -> bool:
        """Whether a decision is wanted, the limit left out of account."""
        return (
            (self.since_us is None or decided_us >= self.since_us)
            and (self.until_us is None or decided_us < self.until_us)
            and (not self.flows or flow in self.flows)
        )

    def of(self, items: Iterable[Item]) -> Iterator[Item]:
        """The wanted ones, in their order."""
        left = self.limit
        for item in items:
            if left is not None and left <= 0:
                return
            if self.takes(item.decided_us, item.flow):
                if left is not None:
                    left -= 1
                yield item


class Chunk(NamedTuple):
    """What one worker takes at a time. outcomes: what is known by now of these decisions, by id."""

    items: list[Item]
    outcomes: dict[str, Outcome]


def chunks(items: Iterable[Item], outcomes: Mapping[str, Outcome]) -> Iterator[Chunk]:
    """Items in chunks, bounded in number and bytes."""
    held: list[Item] = []
    size = 0
    for item in items:
        held.append(item)
        size += len(item.record)
        if len(held) >= CHUNK_ROWS or size >= CHUNK_BYTES:
            yield _chunk(held, outcomes)
            held, size = [], 0
    if held:
        yield _chunk(held, outcomes)


def _chunk(items: list[Item], outcomes: Mapping[str, Outcome]) -> Chunk:
    if not outcomes:
        return Chunk(items, {})
    return Chunk(items, {i.decision_id: found for i in items if (found := outcomes.get(i.decision_id)) is not None})
