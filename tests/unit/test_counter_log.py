"""Counts in the log: what has risen, once, and the rest at the end."""

from __future__ import annotations

import logging
import time

import pytest

from engine.telemetry.counter_log import CounterLog
from engine.telemetry.counters import Counters


def risen(caplog: pytest.LogCaptureFixture) -> list[dict[str, int]]:
    return [record.__dict__["risen"] for record in caplog.records if record.name == "assay.counts"]


def test_what_has_risen_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    counters = Counters()
    log = CounterLog(counters, every_s=0.02)
    counters.add("feature_row_faults", view="credit_file", kind="corrupt")
    end_s = time.monotonic() + 60
    while not risen(caplog) and time.monotonic() < end_s:
        time.sleep(0.01)
    time.sleep(0.1)
    assert risen(caplog) == [{'feature_row_faults{kind="corrupt",view="credit_file"}': 1}]
    log.stop()
    assert len(risen(caplog)) == 1


def test_the_end_tells_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    counters = Counters()
    log = CounterLog(counters, every_s=60)
    counters.add("a", 3)
    counters.add("b", store="redis")
    log.stop()
    assert risen(caplog) == [{"a": 3, 'b{store="redis"}': 1}]


def test_labels_are_bounded() -> None:
    counters = Counters(series_max=3)
    for i in range(10):
        counters.add("seen", kind=str(i))
    assert len(counters.snapshot()) == 4
    assert counters.get("seen", kind="other") == 7
