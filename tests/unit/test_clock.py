"""Ids of decisions: sortable by time, never the same twice, also not in a child of the process."""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter

from engine.clock import new_decision_id


def test_an_id_is_a_uuid_of_version_7_that_tells_its_moment() -> None:
    for now_us in (0, 1, 1_800_000_000_123_456, (1 << 48) * 1000 - 1):
        made = new_decision_id(now_us)
        parsed = uuid.UUID(made)
        assert (str(parsed), parsed.version, parsed.variant) == (made, 7, uuid.RFC_4122)
        assert parsed.int >> 80 == now_us // 1000


def test_ids_sort_by_time_and_never_come_twice() -> None:
    now_us = time.time_ns() // 1000
    ids = [new_decision_id(now_us + n * 1000) for n in range(5000)]
    assert ids == sorted(ids)
    same = [new_decision_id(now_us) for _ in range(5000)]
    assert len({one[14:] for one in same}) == 5000
    # All 74 random bits take both values: the chance that one of them does not is below 2 ** -4990.
    ones = Counter(bit for one in same for bit in range(128) if uuid.UUID(one).int >> bit & 1)
    random_bits = [bit for bit in range(76) if bit not in (62, 63)]
    assert all(0 < ones[bit] < 5000 for bit in random_bits)
    assert (ones[62], ones[63]) == (0, 5000)


def test_a_child_of_the_process_makes_ids_of_its_own() -> None:
    new_decision_id(0)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, "\n".join(new_decision_id(0) for _ in range(100)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        theirs = set(file.read().split("\n"))
    os.waitpid(child, 0)
    assert len(theirs) == 100
    assert not theirs & {new_decision_id(0) for _ in range(100)}
