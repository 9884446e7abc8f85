"""Replay of what was shipped to Cassandra: the same answers as from the journal that it came from."""

from __future__ import annotations

from contextlib import closing
from datetime import date
from functools import partial

import pytest

from engine.bundle.load import load_bundle
from engine.replay.items import Selection, chunks
from engine.replay.run import run_local
from engine.replay.shelf import find_bundles
from engine.replay.sources import days_of, shipped_source
from engine.replay.work import Job
from engine.shipping.records import CassandraRecords
from engine.shipping.shipper import Shipper
from engine.shipping.subjects import JournalSubjects, KeyOpener
from tests.support import replays, tiny
from tests.support.shipping import MASTER, QUICK, cassandra
from tests.support.spark_replay import MASTER as MASTER_OF_SPARK
from tests.support.spark_replay import needed

# The node may have to be started, and a Java machine is not quick on a busy one.
pytestmark = pytest.mark.timeout(600)
MOMENT_US = 1_020_000_000_000_000
SELECTION = Selection(since_us=MOMENT_US, until_us=MOMENT_US + 1)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, set[str]]:
    """Forty decisions of a day that no other test uses, shipped; and a job with the bundle that made them."""
    where, tmp_path = cassandra(), tmp_path_factory.mktemp("shipped")
    bundle = tiny.write_bundle(tmp_path / "bundle")
    loaded = load_bundle(bundle, scenarios=False)
    with replays.lending(tmp_path / "journal", loaded, master=MASTER) as lender:
        lender.clock.at_us = MOMENT_US
        for batch in replays.batches(replays.tiny_requests(40, loaded, lender.store), 10):
            lender.decide(*batch)
        made = set(lender.made)
    shipper = Shipper(tmp_path / "journal", where, QUICK, subjects=JournalSubjects(tmp_path / "journal", MASTER))
    try:
        shipper.ship_once()
    finally:
        shipper.stop()
    return Job({digest: str(root) for digest, root in find_bundles([bundle]).items()}), made


def test_what_was_shipped_replays_like_the_journal(shipped: tuple[Job, set[str]]) -> None:
    where, (job, made) = cassandra(), shipped
    assert days_of(SELECTION) == [date(2002, 4, 28)]
    with closing(CassandraRecords(where, KeyOpener(MASTER))) as records:
        source = shipped_source("Cassandra", records, days_of(SELECTION))
        items = [item for item in SELECTION.of(source.items()) if item.decision_id in made]
    assert {item.decision_id for item in items} == made
    assert run_local(job, chunks(items, {}), 1).of("identical") == 40
    with closing(CassandraRecords(where)) as records:
        source = shipped_source("Cassandra", records, days_of(SELECTION))
        sealed = [item for item in source.items() if item.decision_id in made]
    assert run_local(job, chunks(sealed, {}), 1).of("locked") == 40


@pytest.mark.slow
def test_spark_reads_what_was_shipped(shipped: tuple[Job, set[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    needed()
    from engine.replay import spark

    where, (job, made) = cassandra(), shipped
    monkeypatch.setattr(spark, "TASK_BUCKETS", 144)
    opener = partial(CassandraRecords, where, KeyOpener(MASTER))
    tally = spark.run_spark_shipped(job, opener, SELECTION, {}, MASTER_OF_SPARK)
    assert tally.of("identical") >= len(made)
    assert tally.of("locked") == 0
    with closing(opener()) as records:
        source = shipped_source("Cassandra", records, days_of(SELECTION))
        assert tally == run_local(job, chunks(SELECTION.of(source.items()), {}), 1)
