"""Arms by hash: the shares that were declared, the same arm everywhere, and few who move."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.traffic.split import PLACES, Sample, Split, place_of, salt_of

IDS = [f"applicant-{number}" for number in range(100_000)]


def _arms(experiment: str, shares: list[int]) -> list[int]:
    split = Split(experiment, shares)
    return [split.arm_of(one) for one in IDS]


@pytest.mark.parametrize(
    "shares", [[9_000, 1_000], [5_000, 5_000], [9_990, 10], [7_000, 1_500, 1_000, 500], [10_000, 0]]
)
def test_shares_come_out_within_statistical_error(shares: list[int]) -> None:
    arms = _arms("price_2026", shares)
    for arm, share in enumerate(shares):
        wanted = share / PLACES
        # Four standard deviations of a binomial count: once in sixteen thousand by chance, and the ids are fixed.
        error = 4 * math.sqrt(len(IDS) * wanted * (1 - wanted))
        assert abs(arms.count(arm) - len(IDS) * wanted) <= error


def test_places_are_spread_evenly() -> None:
    counts = [0] * 100
    for one in IDS:
        counts[place_of(salt_of("even"), one) // 100] += 1
    expected = len(IDS) / 100
    # Chi-square with 99 degrees of freedom: 149 is beyond the 99.9th percentile.
    assert sum((count - expected) ** 2 / expected for count in counts) < 149


def test_another_experiment_divides_anew() -> None:
    one, other = _arms("one", [5_000, 5_000]), _arms("other", [5_000, 5_000])
    both = sum(a == b == 1 for a, b in zip(one, other, strict=True))
    assert abs(both - len(IDS) / 4) < 4 * math.sqrt(len(IDS) * 0.25 * 0.75)


def test_another_process_comes_to_the_same_arms() -> None:
    program = (
        "from engine.traffic.split import Split\n"
        "split = Split('price_2026', [7000, 2000, 1000])\n"
        "print(''.join(str(split.arm_of(f'applicant-{n}')) for n in range(500)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "77"},
    )
    assert done.stdout.strip() == "".join(str(arm) for arm in _arms("price_2026", [7_000, 2_000, 1_000])[:500])


def test_places_are_those_of_every_release() -> None:
    # A change of these would move every subject of every experiment that runs.
    assert [place_of(salt_of("price_2026"), f"applicant-{n}") for n in range(4)] == PINNED


PINNED = [5_875, 6_051, 9_947, 7_097]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([9_000, 1_000], [8_000, 2_000]),
        ([8_000, 2_000], [9_500, 500]),
        ([8_000, 1_000, 1_000], [7_500, 1_000, 1_500]),
        ([8_000, 1_000, 1_000], [7_000, 2_000, 1_000]),
        ([8_000, 1_000, 1_000], [9_000, 500, 500]),
        ([8_000, 1_000, 1_000], [9_000, 0, 1_000]),
    ],
)
def test_no_more_subjects_move_than_the_shares_say(before: list[int], after: list[int]) -> None:
    one, other = _arms("moves", before), _arms("moves", after)
    moved = sum(a != b for a, b in zip(one, other, strict=True))
    # No division of the subjects could move fewer: half of what the shares differ by.
    least = sum(abs(a - b) for a, b in zip(before, after, strict=True)) / 2 / PLACES
    assert abs(moved - least * len(IDS)) <= 4 * math.sqrt(len(IDS) * least * (1 - least))
    # Nobody goes from one challenger to another.
    assert all(0 in (a, b) for a, b in zip(one, other, strict=True) if a != b)


def test_who_has_no_id_is_the_champions() -> None:
    assert Split("any", [0, 10_000]).arm_of("") == 0


@pytest.mark.parametrize("shares", [[], [5_000], [9_999, 2], [-1, 10_001]])
def test_shares_that_are_no_division_are_refused(shares: list[int]) -> None:
    with pytest.raises(ValueError, match="10000"):
        Split("any", shares)


@given(
    st.lists(st.integers(0, 5_000), min_size=1, max_size=8),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=40),
)
def test_everybody_is_in_an_arm_with_a_share(parts: list[int], subject: str) -> None:
    total = sum(parts) or 1
    shares = [part * PLACES // total for part in parts]
    shares[0] += PLACES - sum(shares)
    assert shares[Split("any", shares).arm_of(subject)] > 0


def test_a_greater_sample_holds_the_smaller_one() -> None:
    small, great = Sample("shadow", 500), Sample("shadow", 3_000)
    taken = [one for one in IDS if small.takes(one)]
    assert all(great.takes(one) for one in taken)
    assert abs(len(taken) - 5_000) < 4 * math.sqrt(len(IDS) * 0.05 * 0.95)
    assert all(Sample("shadow", PLACES).takes(one) for one in (*IDS[:100], ""))
