"""Keys say whose row it is, and keep an entity's rows together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.features.store import (
    MAX_ENTITY_ID_BYTES,
    check_event_time,
    entity_prefix,
    event_time_of,
    key_maker,
    keys_maker,
    parse_key,
    row_key,
)

ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


@given(ids)
def test_a_key_can_be_taken_apart(entity_id: str) -> None:
    key = row_key("subject", entity_id, "bureau.v2")
    assert parse_key(key) == ("subject", entity_id, "bureau.v2")
    assert key == key_maker("subject", "bureau.v2")(entity_id)
    assert key.startswith(entity_prefix("subject", entity_id))


@given(ids, ids)
def test_keys_made_together_are_those_made_one_by_one(one: str, other: str) -> None:
    rows = [(0, "subject", "a"), (2, "device", "b.c"), (1, "phone", "d"), (0, "subject", "e_1")]
    ids_ = (one, None, other)
    keys = [None if ids_[place] is None else row_key(entity, ids_[place] or "", view) for place, entity, view in rows]
    assert keys_maker(rows)(ids_) == keys


@given(ids, ids)
def test_no_two_rows_share_a_key(one: str, other: str) -> None:
    assert (row_key("subject", one, "a") == row_key("subject", other, "a")) == (one == other)
    assert row_key("subject", one, "a") != row_key("device", other, "a")


@given(ids)
def test_all_rows_of_an_entity_have_one_hash_tag(entity_id: str) -> None:
    """Redis Cluster hashes what is between the first brace and the next closing one, if there is anything."""

    def tag(key: bytes) -> bytes:
        start = key.index(b"{") + 1
        return key[start : key.index(b"}", start)]

    tags = {tag(row_key("subject", entity_id, view)) for view in ("a", "b.c", "d_1")}
    assert len(tags) == 1
    assert tags != {b""}


@pytest.mark.parametrize("entity_id", ["", "x" * (MAX_ENTITY_ID_BYTES + 1), "é" * MAX_ENTITY_ID_BYTES])
def test_ids_out_of_bounds_are_refused(entity_id: str) -> None:
    with pytest.raises(ValueError, match="256 bytes"):
        row_key("subject", entity_id, "a")
    with pytest.raises(ValueError, match="256 bytes"):
        key_maker("subject", "a")(entity_id)


@pytest.mark.parametrize("name", ["", "A", "a/b", "a}b", "a{", "x" * 65, "1a"])
def test_names_that_would_spoil_a_key_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        key_maker(name, "view")
    with pytest.raises(ValueError, match="name"):
        key_maker("subject", name)


@pytest.mark.parametrize("key", [b"", b"x", b"{subject/}v", b"{subject}v", b"subject/1}v", b"{subject/1}", b"{s/1}V"])
def test_what_is_no_key_is_said_so(key: bytes) -> None:
    with pytest.raises(ValueError, match="no key"):
        parse_key(key)


def test_the_longest_key_fits_into_lmdb() -> None:
    assert len(key_maker("e" * 64, "v" * 64)("x" * MAX_ENTITY_ID_BYTES)) <= 511


def test_a_value_without_its_event_time_is_refused() -> None:
    value = b"x" * 16 + (7).to_bytes(8, "little")
    check_event_time(value, 7)
    for wrong, time in ((value, 8), (b"", 0), (value[:-1], 7)):
        with pytest.raises(ValueError, match="event time"):
            check_event_time(wrong, time)
    assert event_time_of(b"") < event_time_of(b"x" * 16 + (-5).to_bytes(8, "little", signed=True)) == -5
