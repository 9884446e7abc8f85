"""The generated stream: determinism, hard negatives, late labels, difficulty."""

from __future__ import annotations

import numpy as np
import pytest

from models.training.fraud.labels import completeness_by_age, expected_to_known_odds
from models.training.fraud.population import DAY_SECONDS
from models.training.fraud.schemes import FRAUD_TYPES, LABEL_DELAY_MEDIAN_DAYS, MISSED_SHARE
from models.training.fraud.stream import FACTS, Stream, generate


@pytest.fixture(scope="module")
def stream() -> Stream:
    """A year of a small lender with more frauds than the default, so that shares can be measured."""
    return generate(11, days=360, daily=120, fraud_share=0.06)


def test_the_same_seed_gives_the_same_stream_and_another_does_not() -> None:
    a, b, c = (generate(seed, days=20, daily=40) for seed in (3, 3, 4))
    np.testing.assert_array_equal(a.t_s, b.t_s)
    np.testing.assert_array_equal(a.known_s, b.known_s)
    for name in a.ids:
        np.testing.assert_array_equal(a.ids[name], b.ids[name])
    for name in FACTS:
        np.testing.assert_array_equal(a.facts[name], b.facts[name])
    assert len(a) != len(c) or not np.array_equal(a.t_s, c.t_s)


def test_events_are_in_order_within_the_days_and_of_about_the_number_asked_for(stream: Stream) -> None:
    assert np.all(np.diff(stream.t_s) >= 0)
    assert stream.t_s[0] >= 0
    assert stream.t_s[-1] < 360 * DAY_SECONDS
    assert len(stream) == pytest.approx(360 * 120, rel=0.05)
    assert (stream.kind > 0).mean() == pytest.approx(0.06, abs=0.006)
    assert set(np.unique(stream.kind)) == set(range(len(FRAUD_TYPES) + 1))


def test_labels_come_late_and_some_never(stream: Stream) -> None:
    fraud = stream.kind > 0
    assert not stream.known_fraud()[~fraud].any()
    never = fraud & (stream.known_s < 0)
    assert never.sum() / fraud.sum() == pytest.approx(MISSED_SHARE, abs=0.02)
    for place, name in enumerate(FRAUD_TYPES):
        found = (stream.kind == place + 1) & (stream.known_s >= 0)
        delay_days = (stream.known_s - stream.t_s)[found] / DAY_SECONDS
        assert delay_days.min() > 0
        assert np.median(delay_days) == pytest.approx(LABEL_DELAY_MEDIAN_DAYS[name], rel=0.15)


def test_a_label_is_not_known_before_its_day(stream: Stream) -> None:
    now_s = 180 * DAY_SECONDS
    known = stream.known_fraud(now_s)
    assert known.any()
    assert np.all(stream.known_s[known] <= now_s)
    assert np.all(stream.t_s[known] < now_s)
    later = stream.known_fraud() & ~known
    assert np.all(stream.known_s[later] > now_s)


def test_late_labels_are_reckoned_from_what_is_known(stream: Stream) -> None:
    now_s = 240 * DAY_SECONDS
    rows = stream.t_s < now_s - 28 * DAY_SECONDS
    found = rows & stream.known_fraud()
    by_then = rows & stream.known_fraud(now_s)
    truth = (found.sum() / (rows.sum() - found.sum())) / (by_then.sum() / (rows.sum() - by_then.sum()))
    assert truth > 1.1
    assert expected_to_known_odds(stream, rows, now_s) == pytest.approx(truth, rel=0.05)


def test_completeness_of_a_known_delay() -> None:
    # 100 events a step; half known after half a step, half after one and a half.
    event = np.repeat(np.arange(10) * 10, 100)
    known = event + np.tile([5, 15], 500)
    seen = known <= 100
    np.testing.assert_allclose(completeness_by_age(event[seen], known[seen], 100, 10)[:3], [0.5, 1.0, 1.0])


def test_hard_negatives_are_there(stream: Stream) -> None:
    honest = stream.kind == 0
    # Tablets of agents serve many honest strangers.
    at_agent = honest & (stream.ids["agent"] >= 0)
    tablet = np.bincount(stream.ids["device"][at_agent]).argmax()
    assert len(np.unique(stream.ids["applicant"][at_agent & (stream.ids["device"] == tablet)])) > 100
    # Families and halls of residence share addresses; relatives share phones; a hall is larger than a family.
    people_at = {
        entity: _people_each(stream.ids[entity][honest], stream.ids["applicant"][honest])
        for entity in ("address", "phone")
    }
    assert people_at["address"].max() > 30
    assert (people_at["address"] >= 2).mean() > 0.05
    assert (people_at["phone"] >= 2).mean() > 0.01


def _people_each(key: np.ndarray, applicant: np.ndarray) -> np.ndarray:
    pairs = np.unique(np.stack([key, applicant]), axis=1)
    counts: np.ndarray = np.unique(pairs[0], return_counts=True)[1]
    return counts


def test_entities_that_a_channel_does_not_have_are_absent(stream: Stream) -> None:
    branch = stream.ids["device"] < 0
    assert 0.02 < branch.mean() < 0.12
    assert np.all(stream.ids["agent"][branch] < 0)
    assert np.all(np.isnan(stream.facts["device_age_days"][branch]))
    assert np.all(np.isnan(stream.facts["agent_tenure_days"]) == (stream.ids["agent"] < 0))


def test_an_easier_level_gives_frauds_away_more_often() -> None:
    def new_email(level: str) -> float:
        s = generate(2, days=100, daily=100, fraud_share=0.1, level=level)
        new = s.facts["email_age_days"] < 8
        return float(new[s.kind == 1].mean() - new[s.kind == 0].mean())

    assert new_email("easy") > new_email("medium") > new_email("hard") > 0.1


def test_unknown_levels_and_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="easy, medium, hard"):
        generate(1, level="brutal")
    with pytest.raises(ValueError, match="fraud_share"):
        generate(1, fraud_share=0.7)
