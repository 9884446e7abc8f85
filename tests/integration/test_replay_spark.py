"""The same replay on Apache Spark, on two cores of this machine: the same answers as a local run, to the last digit."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.bundle.load import load_bundle
from engine.replay.errors import ReplayError
from engine.replay.export import export
from engine.replay.items import Selection, chunks
from engine.replay.outcomes import Outcome
from engine.replay.report import About, make_report
from engine.replay.run import run_local
from engine.replay.shelf import find_bundles
from engine.replay.sources import JournalSource, ParquetSource
from engine.replay.tally import Tally
from engine.replay.work import Job
from tests.support import replays, tiny
from tests.support.spark_replay import MASTER, needed


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_spark_gives_the_answers_of_a_local_run(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed()
    from pyspark.sql import SparkSession

    from engine.replay.spark import run_spark

    bundle = tiny.write_bundle(tmp_path / "bundle")
    other = tiny.write_bundle(tmp_path / "other")
    tiny.change(other / "policy" / "cut_offs.json", ["nodes", 1, "content", "rules", 2, "i0"], "[560..600)")
    tiny.change(other / "policy" / "cut_offs.json", ["nodes", 1, "content", "rules", 3, "i0"], "< 560")
    loaded = load_bundle(bundle, scenarios=False)
    with replays.lending(tmp_path / "journal", loaded) as lender:
        for batch in replays.batches(replays.tiny_requests(120, loaded, lender.store, seed=4), 20):
            lender.decide(*batch)
    items = list(JournalSource(tmp_path / "journal").items())
    items[5] = items[5]._replace(erased=True)
    # Several files, so that there are several tasks.
    exported = tmp_path / "exported"
    exported.mkdir()
    for part in range(2):
        export(items[part::2], exported / f"part-{part}.parquet", personal=False)

    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    # One session for all, as in a notebook: the machine that starts it is what takes its time.
    session = SparkSession.builder.master(MASTER).config("spark.ui.enabled", "false")
    session = session.config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1")
    spark = session.getOrCreate()
    request.addfinalizer(spark.stop)

    # Bundles go to the executors with the job. The recorded one is not among them: some decisions differ.
    changed = Job({digest: str(root) for digest, root in find_bundles([other]).items()})
    of_spark = run_spark(changed, exported, Selection(), {}, MASTER)
    assert of_spark == run_local(changed, chunks(items, {}), 1)
    assert of_spark.of("erased") == 1
    assert of_spark.of("different") > 0
    assert {key[1] for key in of_spark.counts if key[0] == "stage"} == {"bundle", "policy"}

    # A back-test of a selection, with outcomes and a segment of its own.
    known = {item.decision_id: Outcome(place % 3 == 0, 10.5) for place, item in enumerate(items)}
    back_test = Job({}, other=str(other), segments=("housing",))
    moments = sorted(item.decided_us for item in items)
    chosen = Selection(moments[10], moments[-10], frozenset({"tiny_loan.application"}))
    of_spark = run_spark(back_test, exported, chosen, known, MASTER)
    local = run_local(back_test, chunks(chosen.of(items), known), 1)
    assert report(of_spark) == report(local)
    assert local.of("compared") == len(items) - 20 - (moments[10] <= items[5].decided_us < moments[-10])

    with pytest.raises(ReplayError, match="--limit"):
        run_spark(changed, exported, Selection(limit=3), {}, MASTER)
    with pytest.raises(ReplayError, match="Spark failed"):
        run_spark(changed, tmp_path / "none", Selection(), {}, MASTER)


def report(tally: Tally) -> dict[str, Any]:
    made = make_report(tally, About("x", ("tiny", "0.1.0", "sha256:0")))
    return dict(json.loads(json.dumps(made)))


def test_files_are_read_as_spark_reads_them(tmp_path: Path) -> None:
    """Whatever engine runs, the file is the same; this part needs no Java."""
    pytest.importorskip("pyarrow")
    bundle = tiny.write_bundle(tmp_path / "bundle")
    loaded = load_bundle(bundle, scenarios=False)
    with replays.lending(tmp_path / "journal", loaded) as lender:
        for request in replays.tiny_requests(5, loaded, lender.store):
            lender.decide(request)
    items = list(JournalSource(tmp_path / "journal").items())
    export(items, tmp_path / "all.parquet", personal=True)
    assert list(ParquetSource(tmp_path / "all.parquet").items()) == items
