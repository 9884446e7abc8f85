"""The shell around the pure middle, without gRPC: deadlines, repeats over a change of bundle, stores that fail."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from assay.decision.v1 import decision_pb2 as pb
from engine.bundle.load import LoadedBundle, load_bundle
from engine.clock import SystemClock
from engine.decider import Asked, Decider, Served
from engine.errors import Refusal
from engine.feature_reader import FeatureReader, ReadSettings
from engine.features.store import StoreCorrupt, StoreTimeout, StoreUnavailable
from engine.features.stores.memory import MemoryStore
from engine.labels import make_labels
from engine.record.log import DecisionLog
from tests.support import tiny

TRACE = "ab" * 16


class FailingStore(MemoryStore):
    """The memory store, until it is told to fail."""

    error: Exception | None = None

    def read(self, keys: Sequence[bytes], deadline_s: float | None = None) -> list[bytes | None]:
        if self.error is not None:
            raise self.error
        return super().read(keys, deadline_s)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedBundle:
    return tiny.load_tiny(tmp_path_factory)


@pytest.fixture
def store() -> FailingStore:
    return FailingStore()


@pytest.fixture
def decider(tmp_path: Path, loaded: LoadedBundle, store: FailingStore) -> Iterator[Decider]:
    log = DecisionLog.open(tmp_path / "decisions")
    made = Decider(FeatureReader(store, ReadSettings(budget_s=60.0)), log, SystemClock())
    made.serve(Served(loaded.plan, make_labels(loaded.plan, store.name)))
    yield made
    log.close()


def parsed(answer: bytes | Exception) -> pb.Decision:
    assert isinstance(answer, bytes), answer
    return pb.Decision.FromString(answer)


def test_a_deadline_that_has_passed_decides_and_records_nothing(decider: Decider) -> None:
    request = tiny.request("late")
    with pytest.raises(Refusal) as caught:
        decider.decide(request, Asked(TRACE, time.monotonic() - 1.0))
    assert caught.value.reason == "DEADLINE_TOO_SHORT"
    later = parsed(decider.decide(request, Asked(TRACE, time.monotonic() + 30.0)))
    assert not later.replayed


def test_a_batch_whose_deadline_has_passed_records_nothing_either(decider: Decider) -> None:
    requests = [tiny.request("late-1"), tiny.request("late-2")]
    try:
        results = decider.decide_many(requests, Asked(TRACE, time.monotonic() - 1.0))
    except Refusal as error:
        results = [error]
    assert all(isinstance(r, Refusal) and r.reason == "DEADLINE_TOO_SHORT" for r in results)
    assert not parsed(decider.decide(requests[0], Asked(TRACE))).replayed


@pytest.mark.parametrize("error", [StoreTimeout("x"), StoreUnavailable("x"), StoreCorrupt("x")])
def test_a_store_that_fails_leaves_every_row_unread_and_refers(
    decider: Decider, store: FailingStore, error: Exception
) -> None:
    store.error = error
    one = parsed(decider.decide(tiny.request("f-1"), Asked(TRACE)))
    many = [parsed(d) for d in decider.decide_many([tiny.request("f-2"), tiny.request("f-3")], Asked(TRACE))]
    for decision in (one, *many):
        assert decision.verdict == pb.VERDICT_REFER
        by_name = {s.feature: s.status for s in decision.substitutions}
        assert by_name["checking_band"] == pb.FEATURE_STATUS_UNAVAILABLE
        assert "PL_ACCOUNT_UNKNOWN" in {r.code for r in decision.policy_reasons}


def test_a_store_that_breaks_its_promise_harms_its_own_calls_only(decider: Decider, store: FailingStore) -> None:
    """An error that is no StoreError is unforeseen: the call fails, the request id is free again, and all goes on."""
    store.error = RuntimeError("a driver's own")
    with pytest.raises(RuntimeError):
        decider.decide(tiny.request("odd"), Asked(TRACE))
    store.error = None
    assert not parsed(decider.decide(tiny.request("odd"), Asked(TRACE))).replayed


def test_a_repeat_is_answered_after_the_bundle_has_changed(
    decider: Decider, store: FailingStore, tmp_path: Path
) -> None:
    first = parsed(decider.decide(tiny.request("old"), Asked(TRACE)))
    root = tiny.write_bundle(tmp_path / "next")
    tiny.change(root / "flows" / "tiny_loan.yaml", ["product"], "other_loan")
    tiny.change(root / "bundle.yaml", ["scenarios"], [])
    plan = load_bundle(root).plan
    decider.serve(Served(plan, make_labels(plan, store.name)))
    again = parsed(decider.decide(tiny.request("old"), Asked(TRACE)))
    assert again.replayed
    assert again.decision_id == first.decision_id
    assert again.bundle == first.bundle
