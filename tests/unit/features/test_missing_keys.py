"""Keys known to have no row: for how long, and how many."""

from __future__ import annotations

from engine.features.stores.missing import MissingKeys


def test_what_is_known_to_be_missing_is_bounded_and_goes_in_time() -> None:
    now_s = [0.0]
    missing = MissingKeys(5.0, 3, lambda: now_s[0])
    for name in (b"a", b"b", b"c", b"d"):
        now_s[0] += 1
        missing.remember([name])
    assert [name in missing for name in (b"a", b"b", b"c", b"d")] == [False, True, True, True]
    missing.remember([b"b"])
    missing.remember([b"e"])
    assert [name in missing for name in (b"b", b"c", b"d", b"e")] == [True, False, True, True]
    now_s[0] += 10
    assert b"e" not in missing
    missing.remember([b"f"])
    assert len(missing) == 1, "what ran out is not held"
    missing.forget_prefix(b"f")
    assert len(missing) == 0
    none = MissingKeys(0.0, 3)
    none.remember([b"a"])
    assert b"a" not in none
