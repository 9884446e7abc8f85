"""Claims in a store: leases and clocks, late settles, and what is done without the store."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.claims.row import (
    NO_TOKEN,
    ClaimRow,
    Release,
    Settle,
    State,
    Take,
    forget_answer,
    key_for,
    parse,
)
from engine.claims.shared import Answered, Decided, Held, Mine
from engine.claims.store import StoreClaims, StoreClaimSettings
from engine.errors import Refusal, StoreError
from engine.features.store import Change, StoreCorrupt, StoreUnavailable, event_time_of, parse_key
from engine.features.stores.memory import MemoryStore

KEY = b"\0request-1"
DIGEST = hashlib.sha256(b"one").digest()
LEASE_S = 5.0
SKEW_S = 2.0
_S = 1_000_000


class Clocks:
    """A host's clocks: one that shows the time, and one that only runs."""

    def __init__(self, ahead_s: float = 0.0) -> None:
        self.ahead_s, self.run_s = ahead_s, 0.0

    def now_us(self) -> int:
        return int((1_700_000_000 + self.ahead_s + self.run_s) * _S)

    def monotonic_s(self) -> float:
        return 1000.0 + self.run_s


class Hosts:
    """Hosts on one store, whose clocks run alike and show what they like."""

    def __init__(self, *ahead_s: float) -> None:
        self.store = MemoryStore()
        self.clocks = [Clocks(ahead) for ahead in ahead_s]
        settings = StoreClaimSettings(clock_skew_ms=1000 * SKEW_S)
        self.claims = [
            StoreClaims(self.store, settings, now_us=c.now_us, monotonic_s=c.monotonic_s) for c in self.clocks
        ]

    def pass_s(self, seconds: float) -> None:
        for clock in self.clocks:
            clock.run_s += seconds

    def take(self, host: int) -> object:
        return self.claims[host].take(KEY, DIGEST, LEASE_S)


def decided(decision_id: str, answer: bytes = b"answer") -> Decided:
    return Decided(KEY, DIGEST, decision_id, answer)


@pytest.mark.parametrize("ahead_s", [-1.9, 0.0, 1.9])
def test_clocks_that_differ_less_than_is_allowed_take_no_claim_early_and_every_lapsed_one(ahead_s: float) -> None:
    hosts = Hosts(0.0, ahead_s)
    assert isinstance(hosts.take(0), Mine)
    for _ in range(5):
        assert isinstance(hosts.take(1), Held)
        hosts.pass_s(LEASE_S / 5.0001)
    assert isinstance(hosts.take(1), Held)
    hosts.pass_s(2 * SKEW_S)
    assert isinstance(hosts.take(1), Mine)
    assert hosts.claims[1].counters()["lapsed_taken"] == 1


@pytest.mark.parametrize("ahead_s", [-86_400.0, 86_400.0])
def test_a_holder_whose_clock_is_wrong_is_not_waited_for_for_ever(ahead_s: float) -> None:
    """Its claim is watched by a clock that only runs."""
    hosts = Hosts(0.0, ahead_s)
    hosts.take(0)
    for _ in range(20):
        if isinstance(hosts.take(1), Mine):
            break
        hosts.pass_s(0.5)
    else:
        raise AssertionError("never taken")


@pytest.mark.parametrize("ahead_s", [-86_400.0, 0.0, 86_400.0])
def test_whatever_clocks_say_one_decision_stands(ahead_s: float) -> None:
    """A claim that was taken early costs a decision made in vain, and never a second answer."""
    hosts = Hosts(0.0, ahead_s)
    hosts.take(0)
    while not isinstance(hosts.take(1), Mine):
        hosts.pass_s(1.0)
    assert hosts.claims[0].settle(decided("first")) is None
    late = hosts.claims[1].settle(decided("second"))
    assert late == Answered("first", DIGEST, b"answer")
    for host in (0, 1):
        assert hosts.take(host) == Answered("first", DIGEST, b"answer")
    assert hosts.claims[1].counters()["superseded"] == 1


def test_who_took_longer_than_the_lease_looks_again_before_the_record_is_written() -> None:
    hosts = Hosts(0.0, 0.0)
    first, second = hosts.claims
    hosts.take(0)
    assert first.check(KEY) is None
    hosts.pass_s(LEASE_S + 2 * SKEW_S)
    # Nobody took it: it is the first one's again, and for a lease from now.
    assert first.check(KEY) is None
    assert isinstance(hosts.take(1), Held)
    hosts.pass_s(LEASE_S + 2 * SKEW_S)
    assert isinstance(hosts.take(1), Mine)
    assert first.check(KEY) is None  # not decided yet: whoever settles first is right
    second.settle(decided("second"))
    assert first.check(KEY) == Answered("second", DIGEST, b"answer")
    first.release(KEY)
    assert isinstance(hosts.take(0), Answered)


def test_a_claim_that_lapsed_is_not_given_back_by_its_former_holder() -> None:
    hosts = Hosts(0.0, 0.0)
    hosts.take(0)
    hosts.pass_s(LEASE_S + 2 * SKEW_S)
    assert isinstance(hosts.take(1), Mine)
    hosts.claims[0].release(KEY)
    assert isinstance(hosts.take(0), Held)


class Failing(MemoryStore):
    """A store that fails while it is told to, before or after it has done what was asked."""

    before = after = False

    def update(
        self,
        changes: Sequence[tuple[bytes, Change]],
        *,
        ttl_s: int | None = None,
        deadline_s: float | None = None,
    ) -> list[bytes | None]:
        if self.before:
            raise StoreUnavailable("down")
        found = super().update(changes, ttl_s=ttl_s, deadline_s=deadline_s)
        if self.after:
            raise StoreUnavailable("lost the answer")
        return found


@pytest.mark.parametrize("when", ["before", "after"])
def test_without_the_store_calls_are_refused_and_the_id_stays_free(when: str) -> None:
    store = Failing()
    claims = StoreClaims(store)
    setattr(store, when, True)
    with pytest.raises(Refusal) as caught:
        claims.take(KEY, DIGEST, 0.001)
    assert caught.value.reason == "STORE_UNAVAILABLE"
    assert caught.value.metadata == {"store": "memory"}
    setattr(store, when, False)
    # A claim that was made and not heard of lapses like any other.
    other = StoreClaims(store, now_us=lambda: 2**60)
    assert isinstance(other.take(KEY, DIGEST, LEASE_S), Mine)
    assert claims.counters()["refused"] == 1


def test_a_decision_that_cannot_be_settled_is_not_given_and_its_retry_gets_it() -> None:
    store = Failing()
    claims = StoreClaims(store)
    told: list[bool] = []
    claims.on_unsettled = lambda: told.append(True)
    claims.take(KEY, DIGEST, LEASE_S)
    store.before = True
    with pytest.raises(Refusal):
        claims.settle(decided("d"))
    assert told == [True]
    store.before = False
    assert claims.adopt([decided("d")]) == [None]
    assert claims.take(KEY, DIGEST, LEASE_S) == Answered("d", DIGEST, b"answer")


def test_a_host_that_goes_on_alone_says_so_and_yields_where_it_can() -> None:
    store = Failing()
    alone = StoreClaims(store, StoreClaimSettings(on_failure="host"))
    store.before = True
    assert alone.take(KEY, DIGEST, LEASE_S) == Mine(is_shared=False)
    assert isinstance(alone.take(KEY, DIGEST, LEASE_S), Held)
    store.before = False
    StoreClaims(store).settle(decided("theirs"))
    # The store is back before it has answered: what stands there is given.
    assert alone.settle(decided("ours")) == Answered("theirs", DIGEST, b"answer")
    assert alone.counters()["unshared"] == 1


def test_an_answer_that_is_too_long_is_named_and_not_kept() -> None:
    claims = StoreClaims(MemoryStore(), StoreClaimSettings(answer_bytes_max=5))
    claims.settle(decided("d", b"123456"))
    assert claims.take(KEY, DIGEST, LEASE_S) == Answered("d", DIGEST, b"")


def test_who_is_to_be_forgotten_is_not_in_the_row_any_more() -> None:
    store = MemoryStore()
    claims = StoreClaims(store)
    claims.settle(decided("d", b"of a person"))
    claims.forget(KEY)
    claims.forget(KEY)
    assert claims.take(KEY, DIGEST, LEASE_S) == Answered("d", DIGEST, b"")
    assert not any(b"person" in value for _, value in store.scan())


def test_a_row_that_was_damaged_is_no_answer_and_no_claim() -> None:
    store = MemoryStore()
    claims = StoreClaims(store)
    claims.settle(decided("d"))
    ((key, value),) = store.scan()
    store.update([(key, lambda _: value[:-9] + b"?" + value[-8:])])
    with pytest.raises(Refusal):
        claims.take(KEY, DIGEST, LEASE_S)


def test_what_of_others_is_remembered_is_bounded() -> None:
    store = MemoryStore()
    other, claims = StoreClaims(store), StoreClaims(store, StoreClaimSettings(watched_max=10))
    for i in range(50):
        other.take(b"\0%d" % i, DIGEST, LEASE_S)
        assert isinstance(claims.take(b"\0%d" % i, DIGEST, LEASE_S), Held)
    assert len(claims._seen) <= 10


rows = st.builds(
    ClaimRow,
    st.sampled_from(State),
    st.integers(0, 2**62),
    st.binary(min_size=16, max_size=16),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**62),
    st.binary(max_size=64),
    st.text("0123456789abcdef-", max_size=36),
    st.binary(max_size=300),
)


@given(rows)
def test_a_row_comes_back_as_it_was(row: ClaimRow) -> None:
    value = row.pack()
    assert parse(value) == row
    assert event_time_of(value) == row.event_time_us


@given(rows, st.data())
def test_a_flipped_bit_is_noticed(row: ClaimRow, data: st.DataObject) -> None:
    value = bytearray(row.pack())
    bit = data.draw(st.integers(0, 8 * len(value) - 1))
    value[bit // 8] ^= 1 << bit % 8
    with pytest.raises(StoreCorrupt):
        parse(bytes(value))
    with pytest.raises(StoreError):
        parse(bytes(value[: bit // 8]))


_TOKENS = [bytes([i]) * 16 for i in range(1, 4)]
_changes = st.one_of(
    st.builds(
        Take,
        st.sampled_from(_TOKENS),
        st.just(DIGEST),
        st.integers(1, 5000),
        st.integers(0, 100),
        st.sampled_from([NO_TOKEN, *_TOKENS]),
    ),
    st.builds(Settle, st.just(DIGEST), st.sampled_from("abc"), st.just(b"x"), st.integers(0, 100)),
    st.builds(Release, st.sampled_from(_TOKENS), st.integers(0, 100)),
    st.builds(forget_answer, st.integers(0, 100)),
)


@given(st.lists(_changes, max_size=12))
def test_in_whatever_order_changes_come_the_first_that_settles_stands(changes: list[Change]) -> None:
    held: bytes | None = None
    first = ""
    for change in changes:
        new = change(held)
        if new is not None:
            assert held is None or event_time_of(new) > event_time_of(held)
            # A store may make the same change again on what it has just put there.
            assert change(new) is None
            held = new
        if isinstance(change, Settle):
            first = first or change.decision_id
        row = parse(held)
        assert (row.decision_id if row is not None and row.state is State.ANSWERED else "") == first


def test_a_row_stands_under_a_key_that_every_store_takes_and_names_nobody() -> None:
    key = key_for("tenant é\0".encode() + b"x" * 500)
    assert parse_key(key).entity == "assay_request"
    assert len(key) < 100
    assert key_for(b"a\0b") != key_for(b"a\0c")
