"""Log and claims behind one door, with a real journal: what is found where, and what is never given."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from assay.decision.v1 import decision_pb2 as pb
from assay.decision.v1 import decision_record_pb2 as record_pb
from engine.claims.desk import RequestIds, Standing
from engine.claims.reconcile import Reconciler
from engine.claims.shared import Answered, Decided, Mine
from engine.claims.store import StoreClaims
from engine.claims.superseded import Superseded
from engine.clock import new_decision_id
from engine.errors import RecordError, Refusal
from engine.features.store import Change, FeatureStore, StoreUnavailable
from engine.features.stores.memory import MemoryStore
from engine.record.log import Claimed, DecisionLog, Position

KEY = b"\0r-1"
APPLICATION = pb.Application(product="loan", term_months=12).SerializeToString()
OTHER = pb.Application(product="loan", term_months=24).SerializeToString()
DIGEST, OTHER_DIGEST = hashlib.sha256(APPLICATION).digest(), hashlib.sha256(OTHER).digest()


def record_of(decision_id: str) -> tuple[bytes, bytes]:
    """A record and its answer."""
    decision = pb.Decision(decision_id=decision_id, request_id="r-1")
    record = record_pb.DecisionRecord(decision=decision, application=pb.Application.FromString(APPLICATION))
    return record.SerializeToString(), decision.SerializeToString()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DecisionLog]:
    opened = DecisionLog.open(tmp_path / "decisions")
    yield opened
    opened.close()


def commit(log: DecisionLog, key: bytes = KEY, age_s: float = 0.0) -> tuple[str, Position]:
    """Commits a decision to a journal alone."""
    decision_id = new_decision_id(time.time_ns() // 1000 - int(age_s * 1e6))
    assert isinstance(log.claim(key, DIGEST), Claimed)
    return decision_id, log.commit(key, decision_id, DIGEST, record_of(decision_id)[0])


def decide(ids: RequestIds, log: DecisionLog, key: bytes = KEY) -> str | Standing:
    """All steps; gives the id of a decision that was made, or what stands."""
    claimed = ids.claim(key, DIGEST)
    if isinstance(claimed, Standing):
        return claimed
    assert claimed is not None
    decision_id = new_decision_id(time.time_ns() // 1000)
    record, answer = record_of(decision_id)
    position = log.commit(key, decision_id, DIGEST, record)
    return ids.finish(Decided(key, DIGEST, decision_id, answer, position)) or decision_id


def test_without_others_the_log_alone_decides(log: DecisionLog) -> None:
    ids = RequestIds(log)
    made = decide(ids, log)
    assert isinstance(made, str)
    found = ids.claim(KEY, DIGEST)
    assert isinstance(found, Standing)
    assert found.decision_id == made
    assert found.replayed().replayed
    assert found.replayed().decision_id == made
    other = ids.claim(KEY, OTHER_DIGEST)
    assert isinstance(other, Standing)
    assert other.payload_digest == DIGEST
    refusal = other.reused("r-1", OTHER)
    assert refusal.reason == "REQUEST_ID_REUSED"
    assert refusal.metadata == {"request_id": "r-1", "decision_id": made, "differs": "application.term_months"}


def test_without_others_a_duplicate_at_work_is_waited_for(log: DecisionLog) -> None:
    ids = RequestIds(log)
    assert isinstance(ids.claim(KEY, DIGEST), Claimed)
    assert ids.claim(KEY, DIGEST) is None
    assert ids.claim(KEY, OTHER_DIGEST) is None
    assert not ids.wait(KEY, time.monotonic() + 0.01)
    ids.abandon(KEY)
    assert ids.wait(KEY, time.monotonic() + 10)
    assert isinstance(ids.claim(KEY, OTHER_DIGEST), Claimed)


def test_a_log_that_fails_gives_the_claim_back_everywhere(log: DecisionLog) -> None:
    store = MemoryStore()
    ids = RequestIds(log, StoreClaims(store))
    log.close()
    with pytest.raises(RecordError):
        ids.claim(KEY, DIGEST)
    assert isinstance(StoreClaims(store).take(KEY, DIGEST, 5.0), Mine)


def test_what_this_host_recorded_before_is_told_to_the_others(log: DecisionLog) -> None:
    """Recorded and not settled: by a server that shared with nobody yet, or that was killed in between."""
    store = MemoryStore()
    recorded, _ = commit(log)
    ids = RequestIds(log, StoreClaims(store))
    found = ids.claim(KEY, DIGEST)
    assert isinstance(found, Standing)
    assert found.decision_id == recorded
    there = StoreClaims(store).take(KEY, DIGEST, 5.0)
    assert isinstance(there, Answered)
    assert (there.decision_id, there.answer) == (recorded, record_of(recorded)[1])


def test_an_answer_that_is_not_kept_in_the_store_is_read_from_where_it_is(log: DecisionLog) -> None:
    store = MemoryStore()
    shipped = {"far": record_of("far")[0]}
    StoreClaims(store).settle(Decided(KEY, DIGEST, "far", b""))
    here, _ = commit(log, b"\0here")
    StoreClaims(store).settle(Decided(b"\0here", DIGEST, here, b""))

    ids = RequestIds(log, StoreClaims(store), elsewhere=shipped.get)
    for key, decision_id in ((KEY, "far"), (b"\0here", here)):
        found = ids.claim(key, DIGEST)
        assert isinstance(found, Standing)
        assert found.replayed().decision_id == decision_id
        other = ids.claim(key, OTHER_DIGEST)
        assert isinstance(other, Standing)
        assert other.reused("r-1", OTHER).metadata["differs"] == "application.term_months"

    lost = RequestIds(log, StoreClaims(store)).claim(KEY, DIGEST)
    assert isinstance(lost, Standing)
    with pytest.raises(Refusal) as caught:
        lost.replayed()
    assert caught.value.metadata == {"decision_id": "far"}


def test_a_decision_that_was_not_given_never_is(log: DecisionLog, tmp_path: Path) -> None:
    store = MemoryStore()
    superseded = Superseded(tmp_path / "superseded.jsonl")
    ids = RequestIds(log, StoreClaims(store), superseded=superseded)
    assert isinstance(ids.claim(KEY, DIGEST), Claimed)
    StoreClaims(store).settle(Decided(KEY, DIGEST, "theirs", record_of("theirs")[1]))
    stands = ids.recheck(KEY, DIGEST)
    assert stands is None  # within the lease nobody is asked
    ours, position = "ours", log.commit(KEY, "ours", DIGEST, record_of("ours")[0])
    found = ids.finish(Decided(KEY, DIGEST, ours, record_of(ours)[1], position))
    assert found is not None
    assert found.replayed().decision_id == "theirs"
    assert not ids.was_given(ours)
    assert ids.was_given("theirs")
    assert ids.counters()["superseded_known"] == 1
    store.delete([key for key, _ in store.scan()])
    # Also after a restart, and although nobody but this host knows of the request any more.
    later = RequestIds(log, StoreClaims(store), superseded=Superseded(tmp_path / "superseded.jsonl"))
    again = later.claim(KEY, DIGEST)
    assert isinstance(again, Standing)
    assert again.decision_id == "theirs"
    with pytest.raises(Refusal):
        again.replayed()
    assert isinstance(later.claim(b"\0next", DIGEST), Claimed)


def test_workers_read_what_others_noted_and_no_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "superseded.jsonl"
    one, other = Superseded(path), Superseded(path)
    assert one.stands_for("a") is None
    other.note("a", "b")
    other.note("a", "b")
    assert one.stands_for("a") == "b"
    with path.open("ab") as file:
        file.write(b'nonsense\n{"decision_id": "c", "sta')
    assert one.stands_for("c") is None
    with path.open("ab") as file:
        file.write(b'nds": "d"}\n')
    assert one.stands_for("c") == "d"
    assert sorted(one) == ["a", "c"]
    assert len(path.read_bytes().splitlines()) == 3


def test_many_are_claimed_and_finished_together_and_one_at_fault_harms_no_other(log: DecisionLog) -> None:
    store = MemoryStore()
    ids = RequestIds(log, StoreClaims(store))
    held, known, theirs = b"\0held", b"\0known", b"\0theirs"
    StoreClaims(store).take(held, DIGEST, 60.0)
    recorded, _ = commit(log, known)
    pairs = [(key, DIGEST) for key in (b"\0a", held, known, b"x" * 600, theirs)]
    one, other, third, wrong, last = ids.claim_many(pairs)
    assert isinstance(one, Claimed) and isinstance(last, Claimed)
    assert other is None
    assert isinstance(third, Standing) and third.decision_id == recorded
    assert isinstance(wrong, RecordError)
    StoreClaims(store).settle(Decided(theirs, DIGEST, "far", record_of("far")[1]))
    decisions = []
    for key in (b"\0a", theirs):
        position = log.commit(key, f"d{key!r}", DIGEST, record_of(f"d{key!r}")[0])
        decisions.append(Decided(key, DIGEST, f"d{key!r}", b"answer", position))
    stands, instead = ids.finish_many(decisions)
    assert stands is None
    assert isinstance(instead, Standing) and instead.decision_id == "far"


class _Down(MemoryStore):
    """A store that can be down."""

    down = False

    def update(
        self,
        changes: Sequence[tuple[bytes, Change]],
        *,
        ttl_s: int | None = None,
        deadline_s: float | None = None,
    ) -> list[bytes | None]:
        if self.down:
            raise StoreUnavailable("down")
        return super().update(changes, ttl_s=ttl_s, deadline_s=deadline_s)


def _reconciler(log: DecisionLog, store: FeatureStore, tmp_path: Path, **settings: float) -> Reconciler:
    superseded = Superseded(tmp_path / "superseded.jsonl")
    return Reconciler(log, StoreClaims(store), superseded, tmp_path / "claims.json", **settings)


def test_the_journal_is_settled_from_the_checkpoint_on(log: DecisionLog, tmp_path: Path) -> None:
    store = MemoryStore()
    old, _ = commit(log, b"\0old", age_s=7200)
    fresh = [commit(log, b"\0f-%d" % i)[0] for i in range(250)]
    StoreClaims(store).settle(Decided(b"\0f-7", DIGEST, "theirs", b""))
    first = _reconciler(log, store, tmp_path)
    assert first.reconcile() == 1
    assert first.counters() == {"resettled": 250, "conflicts": 1, "passes": 1, "failures": 0}
    for i, decision_id in enumerate(fresh):
        found = StoreClaims(store).take(b"\0f-%d" % i, DIGEST, 5.0)
        assert isinstance(found, Answered)
        assert found.decision_id == ("theirs" if i == 7 else decision_id)
    # What nobody retries any more is left alone where there is no checkpoint.
    assert not isinstance(StoreClaims(store).take(b"\0old", DIGEST, 5.0), Answered)
    assert old
    end = log.end
    assert end is not None
    (tmp_path / "claims.json").write_text(json.dumps({"segment": end.segment, "offset": end.offset}))
    commit(log, b"\0later")
    second = _reconciler(log, store, tmp_path)
    assert second.reconcile() == 0
    assert second.counters()["resettled"] == 1


def test_the_checkpoint_moves_when_all_is_settled_and_not_before(log: DecisionLog, tmp_path: Path) -> None:
    store = _Down()
    store.down = True
    commit(log)
    reconciler = _reconciler(log, store, tmp_path, settle_s=0.05, every_s=0.01)
    reconciler.start()
    until_s = time.monotonic() + 60
    while reconciler.counters()["failures"] < 2:
        assert time.monotonic() < until_s
        time.sleep(0.01)
    assert reconciler.is_behind
    assert not (tmp_path / "claims.json").exists()
    store.down = False
    while not (tmp_path / "claims.json").exists():
        assert time.monotonic() < until_s
        time.sleep(0.01)
    assert not reconciler.is_behind
    reconciler.stop()
    reconciler.stop()
    written = json.loads((tmp_path / "claims.json").read_text())
    assert log.end == Position(written["segment"], written["offset"])


def test_a_checkpoint_that_makes_no_sense_is_made_anew(log: DecisionLog, tmp_path: Path) -> None:
    store = MemoryStore()
    commit(log)
    (tmp_path / "claims.json").write_text("{")
    reconciler = _reconciler(log, store, tmp_path)
    assert reconciler.reconcile() == 0
    assert reconciler.counters()["resettled"] == 1
