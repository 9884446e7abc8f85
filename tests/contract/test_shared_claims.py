"""What every way of sharing claims must do: over every store, among the workers of a host, and both together."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from engine.claims.host import HostClaims
from engine.claims.layered import LayeredClaims
from engine.claims.shared import Answered, Decided, Held, Mine, SharedClaims
from engine.claims.store import StoreClaims, StoreClaimSettings
from engine.features.store import FeatureStore
from engine.features.stores.memory import MemoryStore
from engine.record.segments import Position
from tests.contract.conftest import _OWN_LIMITS, STORES

KEY = b"\0request-1"
ONE, OTHER = hashlib.sha256(b"one").digest(), hashlib.sha256(b"other").digest()
LEASE_S = 60.0
# The machine may be busy.
_PATIENT = StoreClaimSettings(timeout_ms=60_000)
_AT = Position("w0-00000001", 4096)

Two = tuple[SharedClaims, SharedClaims]


def decided(decision_id: str = "d-1", key: bytes = KEY, digest: bytes = ONE, answer: bytes = b"yes") -> Decided:
    return Decided(key, digest, decision_id, answer, _AT)


def _host(directory: Path) -> HostClaims:
    return HostClaims(directory, lambda: None, lambda: None)


@pytest.fixture(
    params=[
        *(pytest.param(f"store:{name}", marks=_OWN_LIMITS.get(name, ())) for name in sorted(STORES)),
        "host",
        "host over store",
    ]
)
def two(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Two]:
    """Two that share claims, as two processes or two hosts have them."""
    with ExitStack() as stack:

        def opened(make: Callable[[], FeatureStore]) -> FeatureStore:
            store = make()
            stack.callback(store.close)
            return store

        kind = str(request.param)
        if kind == "host":
            made: Two = _host(tmp_path), _host(tmp_path)
        elif kind == "host over store":
            store = opened(MemoryStore)
            made = (
                LayeredClaims(_host(tmp_path), StoreClaims(store, _PATIENT)),
                LayeredClaims(_host(tmp_path), StoreClaims(store, _PATIENT)),
            )
        else:
            name = kind.removeprefix("store:")
            first = opened(lambda: STORES[name](tmp_path))
            # What one process alone can have open, both have.
            alone = "embedded" in name or name in ("memory", "guarded", "tiered")
            second = first if alone else opened(lambda: STORES[name](tmp_path))
            made = StoreClaims(first, _PATIENT), StoreClaims(second, _PATIENT)
        yield made
        for claims in made:
            claims.close()
            claims.close()


def test_a_claim_is_one_holders_until_it_is_given_back(two: Two) -> None:
    first, second = two
    assert isinstance(first, SharedClaims)
    assert isinstance(first.take(KEY, ONE, LEASE_S), Mine)
    assert isinstance(second.take(KEY, ONE, LEASE_S), Held)
    assert isinstance(second.take(KEY, OTHER, LEASE_S), Held)
    assert isinstance(first.take(KEY, ONE, LEASE_S), Held)
    second.release(KEY)  # what is not one's own is not given back
    assert isinstance(second.take(KEY, ONE, LEASE_S), Held)
    first.release(KEY)
    first.release(KEY)
    assert isinstance(second.take(KEY, OTHER, LEASE_S), Mine)
    assert isinstance(first.take(KEY, ONE, LEASE_S), Held)
    second.release(KEY)


def test_what_was_settled_is_what_everybody_finds(two: Two) -> None:
    first, second = two
    assert isinstance(first.take(KEY, ONE, LEASE_S), Mine)
    assert first.check(KEY) is None
    assert first.settle(decided()) is None
    for claims in (first, second):
        found = claims.take(KEY, OTHER, LEASE_S)
        assert isinstance(found, Answered)
        assert (found.decision_id, found.payload_digest) == ("d-1", ONE)
        # The answer itself, or where it is.
        assert found.answer == b"yes" or found.position == _AT
    claims.release(KEY)
    assert isinstance(second.take(KEY, ONE, LEASE_S), Answered)


def test_settling_again_changes_nothing(two: Two) -> None:
    first, second = two
    first.take(KEY, ONE, LEASE_S)
    assert first.settle(decided()) is None
    assert first.settle(decided()) is None
    found = second.take(KEY, ONE, LEASE_S)
    assert isinstance(found, Answered)
    assert found.decision_id == "d-1"


def test_requests_do_not_stand_in_one_anothers_way(two: Two) -> None:
    first, second = two
    keys = [f"tenant {i % 3}\0r-{i}".encode() for i in range(12)]
    for key in keys[::2]:
        assert isinstance(first.take(key, ONE, LEASE_S), Mine)
    for key in keys[1::2]:
        assert isinstance(second.take(key, ONE, LEASE_S), Mine)
    for i, key in enumerate(keys):
        assert (first, second)[i % 2].settle(decided(f"d-{i}", key)) is None
    for i, key in enumerate(keys):
        found = (second, first)[i % 2].take(key, ONE, LEASE_S)
        assert isinstance(found, Answered)
        assert found.decision_id == f"d-{i}"


def test_whoever_waits_goes_on_when_it_is_settled(two: Two) -> None:
    first, second = two
    first.take(KEY, ONE, LEASE_S)
    found: list[object] = []

    def waiter(claims: SharedClaims) -> None:
        until_s = time.monotonic() + 60.0
        while claims.wait(KEY, until_s):
            taken = claims.take(KEY, ONE, LEASE_S)
            if not isinstance(taken, Held):
                found.append(taken)
                return

    threads = [threading.Thread(target=waiter, args=(claims,)) for claims in (first, second)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    assert not found
    first.settle(decided())
    for thread in threads:
        thread.join(60)
    assert [one.decision_id for one in found if isinstance(one, Answered)] == ["d-1", "d-1"]


def test_whoever_waits_in_vain_is_told_so(two: Two) -> None:
    first, second = two
    first.take(KEY, ONE, LEASE_S)
    assert not second.wait(KEY, time.monotonic() + 0.05)
    assert not first.wait(KEY, time.monotonic() - 1.0)
    first.release(KEY)


def test_of_many_at_once_one_decides(two: Two) -> None:
    ways = {"mine": 0, "answered": 0}
    turn = threading.Lock()
    start = threading.Barrier(16)

    def call(claims: SharedClaims, name: str) -> None:
        start.wait()
        until_s = time.monotonic() + 60.0
        while True:
            taken = claims.take(KEY, ONE, LEASE_S)
            if isinstance(taken, Held):
                assert claims.wait(KEY, until_s)
                continue
            if isinstance(taken, Mine):
                assert claims.settle(decided(name)) is None
            with turn:
                ways["mine" if isinstance(taken, Mine) else "answered"] += 1
            return

    threads = [threading.Thread(target=call, args=(two[i % 2], f"d-{i}")) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert ways == {"mine": 1, "answered": 15}


def test_many_are_as_one_after_the_other(two: Two) -> None:
    first, second = two
    keys = [b"\0many-%d" % i for i in range(6)]
    first.take(keys[1], ONE, LEASE_S)
    second.take(keys[2], ONE, LEASE_S)
    second.settle(decided("d-2", keys[2]))
    taken = second.take_many([(key, ONE) for key in [*keys, keys[0]]], LEASE_S)
    assert [type(one) for one in taken] == [Mine, Held, Answered, Mine, Mine, Mine, Held]
    mine = [keys[0], keys[3], keys[4], keys[5]]
    assert second.settle_many([decided(f"d-{i}", key) for i, key in enumerate(mine)]) == [None] * 4
    found = first.take_many([(key, OTHER) for key in mine], LEASE_S)
    assert [one.decision_id for one in found if isinstance(one, Answered)] == ["d-0", "d-1", "d-2", "d-3"]
    assert first.settle_many([]) == []
    assert first.take_many([], LEASE_S) == []
