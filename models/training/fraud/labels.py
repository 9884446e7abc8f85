"""What a lender knows of its frauds, and when."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.training.fraud.stream import Stream


def completeness_by_age(
    event_s: npt.NDArray[np.int64], known_s: npt.NDArray[np.int64], now_s: int, step_s: int
) -> npt.NDArray[np.float64]:
    """The share of the frauds ever found that is found within 1, 2, 3 ... steps of the event, as seen at `now_s`.

    event_s, known_s: moments of the frauds known by `now_s`; those known later must not be among them. The method is
    the chain ladder of claims reserving: cohorts of one step each, the growth from age to age taken over the cohorts
    that are old enough to show it. What takes longer than the oldest cohort has lived is not seen.
    """
    cohorts = now_s // step_s
    table = np.zeros((cohorts, cohorts))
    cohort = event_s // step_s
    age = np.maximum((known_s - event_s - 1) // step_s, 0)
    shown = (cohort < cohorts) & (cohort + age < cohorts)
    np.add.at(table, (cohort[shown], age[shown]), 1.0)
    total = np.cumsum(table, axis=1)
    growth = np.ones(cohorts)
    for older in range(1, cohorts):
        old_enough = slice(0, cohorts - older)  # cohorts that have lived through this age
        before = total[old_enough, older - 1].sum()
        if before > 0:
            growth[older] = total[old_enough, older].sum() / before
    later = np.append(np.cumprod(growth[:0:-1])[::-1], 1.0)  # growth still to come after each age
    return np.asarray(1.0 / later, np.float64)


def expected_to_known_odds(stream: Stream, rows: npt.NDArray[np.bool_], now_s: int, step_s: int = 7 * 86_400) -> float:
    """How many times the odds of fraud among `rows` are what the labels known at `now_s` say, once the late ones are
    in. 1 when nothing is late. Its logarithm is the shift of the model's intercept."""
    known = stream.known_fraud(now_s)
    share = completeness_by_age(stream.t_s[known], stream.known_s[known], now_s, step_s)
    age = np.clip((now_s - stream.t_s[rows & known]) // step_s - 1, 0, len(share) - 1)
    expected = float((1.0 / share[age]).sum())
    seen, total = int((rows & known).sum()), int(rows.sum())
    return (expected / (total - expected)) / (seen / (total - seen))
