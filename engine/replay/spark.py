"""A replay on Apache Spark: the same work on the partitions of an exported Parquet file, or of the days that were
shipped to Cassandra, on one machine or on many.

Every partition gives one tally, and tallies add up, so the answer is the one that a local run gives. Bundles go to the
executors with the job; the engine itself must be installed there. PySpark is an extra; Spark needs Java.
"""

from __future__ import annotations

import atexit
import io
import os
import pickle
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from engine.bundle.source import digest_of
from engine.replay.errors import ReplayError
from engine.replay.items import Selection, chunks
from engine.replay.outcomes import Outcome
from engine.replay.sources import COLUMNS, StoredSource, days_of, items_of_columns
from engine.replay.tally import Tally, added
from engine.replay.work import Job, Replayer
from engine.shipping.records import CassandraRecords
from engine.shipping.rows import BUCKETS_A_DAY

# A task takes about this much of the file, unless there would be fewer tasks than cores.
_TASK_BYTES = 32 << 20
_SMALLEST_TASK_BYTES = 64 << 10
# How many of the pieces of five minutes that a day is kept in a task takes.
TASK_BUCKETS = 24
_ARCHIVE_BYTES_MAX = 1 << 30


@dataclass(frozen=True, slots=True)
class _Load:
    """What goes to every executor: the job, the bundles as archives by digest, and the outcomes."""

    job: Job
    archives: Mapping[str, bytes]
    other: bytes | None
    outcomes: Mapping[str, Outcome]


def run_spark(
    job: Job, path: Path | str, selection: Selection, outcomes: Mapping[str, Outcome], master: str | None = None
) -> Tally:
    """Replays an exported file, or a directory of such files, at a path that Spark can read.

    master: where Spark runs, for example `local[2]` or `spark://host:7077`; None for what the environment says, and
    else all cores of this machine. A selection's limit is not for this engine. Raises ReplayError.
    """
    with _session(selection, master) as spark:
        task_bytes = _task_bytes(path, spark.sparkContext.defaultParallelism)
        spark.conf.set("spark.sql.files.maxPartitionBytes", str(task_bytes))
        spark.conf.set("spark.sql.files.openCostInBytes", "0")
        frame = _selected(spark.read.parquet(str(path)), selection)
        sent = spark.sparkContext.broadcast(_load(job, outcomes))
        rows = frame.mapInArrow(_partition(sent), "tally binary").collect()
        return _added(bytes(row.tally) for row in rows)


def run_spark_shipped(
    job: Job,
    opener: Callable[[], CassandraRecords],
    selection: Selection,
    outcomes: Mapping[str, Outcome],
    master: str | None = None,
) -> Tally:
    """Replays what was shipped to Cassandra; every task reads some hours of a day, straight from there.

    opener: opens the records; it goes to the executors, and the master key with it where it holds one, so let them be
    reached over encrypted connections only (`spark.network.crypto.enabled`). The rest as `run_spark`.
    """
    parts = [(day, first) for day in days_of(selection) for first in range(0, BUCKETS_A_DAY, TASK_BUCKETS)]
    with _session(selection, master) as spark:
        sent = spark.sparkContext.broadcast((_load(job, outcomes), opener, selection, TASK_BUCKETS))
        found = spark.sparkContext.parallelize(parts, len(parts)).mapPartitions(_hours(sent)).collect()
        return _added(bytes(one) for one in found)


def _hours(sent: Any) -> Callable[[Iterator[tuple[date, int]]], Iterator[bytes]]:
    """What a task does with its hours of a day."""

    def work(parts: Iterator[tuple[date, int]]) -> Iterator[bytes]:
        load, opener, selection, buckets = sent.value
        replayer, tally = _replayer_of(load), Tally()
        with closing(opener()) as records:
            for day, first in parts:
                hours = range(first, min(first + buckets, BUCKETS_A_DAY))
                decisions = partial(records.by_day, day, hours)
                source = StoredSource("", decisions, records.catalogue, records.environment)
                for chunk in chunks(selection.of(source.items()), load.outcomes):
                    tally.add(replayer.run(chunk))
        yield pickle.dumps(tally)

    return work


def _load(job: Job, outcomes: Mapping[str, Outcome]) -> _Load:
    return _Load(
        replace(job, bundles={}, other=None),
        {digest: _archive(Path(root)) for digest, root in job.bundles.items()},
        None if job.other is None else _archive(Path(job.other)),
        outcomes,
    )


def _added(pickled: Iterator[bytes]) -> Tally:
    return added(pickle.loads(one) for one in pickled)  # made by our own code, a moment ago


@contextmanager
def _session(selection: Selection, master: str | None) -> Iterator[Any]:
    """A session of Spark: the one that there is, or one for this replay."""
    if selection.limit is not None:
        raise ReplayError(
            "--limit goes by the order of the records, which Spark does not keep; use --since and --until"
        )
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise ReplayError('Spark needs PySpark: pip install "assay-engine[spark]", and Java 17') from error
    # Workers run what this process runs.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName("assay replay").config("spark.ui.enabled", "false")
    builder = builder.config("spark.sql.session.timeZone", "UTC").config("spark.ui.showConsoleProgress", "false")
    if master is not None:
        builder = builder.master(master)
    if master is None or master.startswith("local"):
        builder = builder.config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1")
    # Who has a session of his own keeps it, as it is.
    own = SparkSession.getActiveSession() is None
    try:
        spark = builder.getOrCreate()
    except Exception as error:  # without Java, PySpark raises errors of its own of several kinds
        raise ReplayError(f"Spark cannot be started: {error}. Is Java 17 installed, and JAVA_HOME set?") from error
    try:
        spark.sparkContext.setLogLevel("ERROR")
        yield spark
    except Exception as error:
        # What goes wrong on an executor comes as an error of PySpark, or of its bridge to Java.
        if type(error).__module__.partition(".")[0] not in ("py4j", "pyspark"):
            raise
        raise ReplayError(f"Spark failed: {error}") from error
    finally:
        if own:
            spark.stop()


def _task_bytes(path: Path | str, parallelism: int) -> int:
    """How much of the file a task takes: Spark knows files and not how long a record takes to decide."""
    local = Path(path)
    if not local.exists():
        return _TASK_BYTES
    files = [local] if local.is_file() else [f for f in local.rglob("*.parquet") if f.is_file()]
    size = sum(file.stat().st_size for file in files)
    return min(_TASK_BYTES, max(_SMALLEST_TASK_BYTES, size // max(2 * parallelism, 1)))


def _selected(frame: Any, selection: Selection) -> Any:
    from pyspark.sql import functions as f

    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise ReplayError(f"the file is no export of records: it has no column {', '.join(missing)}")
    decided_us = f.unix_micros(f.col("decided_at"))
    if selection.since_us is not None:
        frame = frame.where(decided_us >= selection.since_us)
    if selection.until_us is not None:
        frame = frame.where(decided_us < selection.until_us)
    if selection.flows:
        frame = frame.where(f.col("flow").isin(sorted(selection.flows)))
    return frame.select(*COLUMNS)


def _partition(sent: Any) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """What a task does with its rows."""

    def work(batches: Iterator[Any]) -> Iterator[Any]:
        import pyarrow as pa

        load: _Load = sent.value
        replayer, tally = _replayer_of(load), Tally()
        items = (item for b in batches for item in items_of_columns({name: b.column(name) for name in COLUMNS}))
        for chunk in chunks(items, load.outcomes):
            tally.add(replayer.run(chunk))
        yield pa.RecordBatch.from_pydict({"tally": pa.array([pickle.dumps(tally)], pa.binary())})

    return work


# --- bundles on executors -----------------------------------------------------------------------------------------

# A Python worker of Spark does many tasks, one after another: bundles are unpacked and loaded once.
_kept: dict[tuple[str, ...], Replayer] = {}


def _replayer_of(load: _Load) -> Replayer:
    key = (*sorted(load.archives), "" if load.other is None else str(hash(load.other)), repr(load.job))
    if key not in _kept:
        _kept.clear()
        place = Path(tempfile.mkdtemp(prefix="assay-bundles-"))
        atexit.register(shutil.rmtree, place, ignore_errors=True)
        bundles = {digest: str(_unpack(archive, place / digest[-16:])) for digest, archive in load.archives.items()}
        for digest, root in bundles.items():
            if digest_of(Path(root)) != digest:
                raise ReplayError(f"the bundle {digest} did not arrive whole")
        other = None if load.other is None else str(_unpack(load.other, place / "other"))
        _kept[key] = Replayer(replace(load.job, bundles=bundles, other=other))
    return _kept[key]


def _archive(root: Path) -> bytes:
    """A bundle's files, hidden ones left out as they are of its digest."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root)
            if path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in name.parts):
                archive.write(path, name.as_posix())
    if made.tell() > _ARCHIVE_BYTES_MAX:
        raise ReplayError(f"{root} is too large to be sent to executors: more than {_ARCHIVE_BYTES_MAX:,} bytes")
    return made.getvalue()


def _unpack(content: bytes, place: Path) -> Path:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(place)
    return place
