"""A replay on Apache Spark: the same work on the partitions of an exported Parquet file, on one machine or on many.

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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.bundle.source import digest_of
from engine.replay.errors import ReplayError
from engine.replay.items import Selection, chunks
from engine.replay.outcomes import Outcome
from engine.replay.sources import COLUMNS, items_of_columns
from engine.replay.tally import Tally, added
from engine.replay.work import Job, Replayer

# A task takes about this much of the file, unless there would be fewer tasks than cores.
_TASK_BYTES = 32 << 20
_SMALLEST_TASK_BYTES = 64 << 10
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
    if selection.limit is not None:
        raise ReplayError(
            "--limit goes by the order of the records, which Spark does not keep; use --since and --until"
        )
    try:
        import pyspark.errors
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise ReplayError('Spark needs PySpark: pip install "assay-engine[spark]", and Java 17') from error
    load = _Load(
        replace(job, bundles={}, other=None),
        {digest: _archive(Path(root)) for digest, root in job.bundles.items()},
        None if job.other is None else _archive(Path(job.other)),
        outcomes,
    )
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
        spark.conf.set(
            "spark.sql.files.maxPartitionBytes", str(_task_bytes(path, spark.sparkContext.defaultParallelism))
        )
        spark.conf.set("spark.sql.files.openCostInBytes", "0")
        frame = _selected(spark.read.parquet(str(path)), selection)
        sent = spark.sparkContext.broadcast(load)
        rows = frame.mapInArrow(_partition(sent), "tally binary").collect()
        return added(pickle.loads(bytes(row.tally)) for row in rows)  # made by our own code, a moment ago
    except pyspark.errors.PySparkException as error:
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
