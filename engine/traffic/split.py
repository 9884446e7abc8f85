"""Which arm a subject is in: a pure function of the experiment's name, the shares and the subject's id.

    id -> BLAKE2b salted with the experiment's name -> a place from 0 to 9,999 -> the arm whose stretch holds it

Nothing is remembered, so that every process, every host and any later replay come to the same arm. Stretches have
ordered cut points: the champion is in the middle, challengers grow towards it from both ends. So a change of the
shares of the champion and one of the first two challengers moves as many subjects as the shares say, and no others;
challengers beyond these stand behind the first two, and are moved when those change.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence

PLACES = 10_000


def salt_of(experiment: str) -> bytes:
    """What goes before a subject's id in its hash. Names hold no NUL: no two pairs of name and id are hashed alike."""
    return experiment.encode() + b"\0"


def place_of(salt: bytes, subject_id: str) -> int:
    """The place of a subject, 0 to 9,999, evenly spread: 64 bits of a hash, scaled."""
    digest = hashlib.blake2b(salt + subject_id.encode(), digest_size=8).digest()
    number: int = int.from_bytes(digest, "big")
    return number * PLACES >> 64


class Split:
    """Divides subjects between arms. shares: in basis points, the champion's first; they sum to 10,000."""

    __slots__ = ("_arms", "_cuts", "_salt")

    def __init__(self, experiment: str, shares: Sequence[int]) -> None:
        """Raises ValueError for shares that are no division."""
        if not shares or min(shares) < 0 or sum(shares) != PLACES:
            raise ValueError(f"shares must be 0 or more and sum to {PLACES}")
        self._salt = salt_of(experiment)
        # Odd challengers from the bottom up, even ones from the top down.
        order: list[int] = [*range(1, len(shares), 2), 0, *reversed(range(2, len(shares), 2))]
        ends: list[int] = []
        end = 0
        for arm in order:
            end += shares[arm]
            ends.append(end)
        self._cuts, self._arms = tuple(ends[:-1]), tuple(order)

    def arm_of(self, subject_id: str) -> int:
        """The number of the subject's arm; the champion's, 0, for a subject without an id."""
        if not subject_id:
            return 0
        place = place_of(self._salt, subject_id)
        return self._arms[bisect_right(self._cuts, place)]


class Sample:
    """Takes a share of the subjects, for a shadow. The same ones at any time; with a greater share, others besides."""

    __slots__ = ("_salt", "_share")

    def __init__(self, name: str, share_basis_points: int) -> None:
        self._salt, self._share = salt_of(name), share_basis_points

    def takes(self, subject_id: str) -> bool:
        """Whether the subject is among them."""
        return self._share >= PLACES or place_of(self._salt, subject_id) < self._share
