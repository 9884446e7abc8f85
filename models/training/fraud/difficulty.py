"""How hard the generated frauds are to tell from honest applications: named levels, stated with every figure.

A fraudster leaves each tell-tale sign (a new e-mail address, a proxy, a form filled in by a script ...) with the
probability `tell`, and otherwise looks like anybody; honest people show the same signs by chance, `noise` times as
often as the base rates of `population.py`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Difficulty:
    """One level.

    tell: probability that a fraud shows a given sign, 0 to 1; reuse: probability that a member of a ring or farm uses
    a device, phone, address, employer or network of the group instead of an own one, 0 to 1; noise: multiplier on the
    share of honest people who show a sign; pace: multiplier on the time between the applications of one group, above
    0 (a patient group escapes short windows).
    """

    name: str
    tell: float
    reuse: float
    noise: float
    pace: float


LEVELS: dict[str, Difficulty] = {
    level.name: level
    for level in (
        Difficulty("easy", tell=0.60, reuse=0.95, noise=1.0, pace=1.0),
        Difficulty("medium", tell=0.50, reuse=0.85, noise=1.6, pace=2.0),
        Difficulty("hard", tell=0.41, reuse=0.75, noise=2.0, pace=4.0),
    )
}
DEFAULT_LEVEL = "hard"


def level_named(name: str) -> Difficulty:
    """The level of this name. Raises ValueError that lists the names there are."""
    try:
        return LEVELS[name]
    except KeyError:
        raise ValueError(f"no difficulty {name!r}; the levels are {', '.join(LEVELS)}") from None
