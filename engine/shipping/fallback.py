"""Decisions wherever they are: in the journal, or, once its segment was let go, in Cassandra."""

from __future__ import annotations

from typing import Protocol

from engine.record.entries import StoredDecision
from engine.shipping.records import CassandraRecords


class Decisions(Protocol):
    """What looks decisions up. `DecisionLog` is one."""

    def get_by_decision_id(self, decision_id: str) -> StoredDecision | None:
        """A decision by its id."""

    def get_by_request_key(self, request_key: bytes) -> StoredDecision | None:
        """The decision of a request."""

    def get_catalogue(self, digest: str) -> bytes | None:
        """A slot list by its digest."""

    def get_environment(self, digest: str) -> bytes | None:
        """An environment by its digest."""


class DecisionsEverywhere:
    """Looks in the journal first, and in Cassandra for what is not there. Safe to use from several threads.

    Every method raises RecordError for what is damaged, and StoreError when the journal does not have it and Cassandra
    does not answer: then it is not known whether there is such a decision.
    """

    def __init__(self, log: Decisions, shipped: CassandraRecords) -> None:
        self._log, self._shipped = log, shipped

    def get_by_decision_id(self, decision_id: str) -> StoredDecision | None:
        """A decision by its id."""
        return self._log.get_by_decision_id(decision_id) or self._shipped.get(decision_id)

    def get_by_request_key(self, request_key: bytes) -> StoredDecision | None:
        """The decision of a request."""
        return self._log.get_by_request_key(request_key) or self._shipped.get_by_request(request_key)

    def get_catalogue(self, digest: str) -> bytes | None:
        """A slot list by its digest."""
        held = self._log.get_catalogue(digest)
        return self._shipped.catalogue(digest) if held is None else held

    def get_environment(self, digest: str) -> bytes | None:
        """An environment by its digest."""
        held = self._log.get_environment(digest)
        return self._shipped.environment(digest) if held is None else held
