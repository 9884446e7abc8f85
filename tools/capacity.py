"""What a load needs: fills the tables of docs/capacity.md from what was measured.

    python -m tools.capacity              # CPU a decision from bench.json, and the tables
    python -m tools.capacity --measure    # measures bytes again as well: needs redis-server, takes half a minute

The figures that the tables are made of stand in deploy/capacity.json, each with where it is from, so that the page does
not change under a new bench.json unless this is run.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tools.docs_common import BUNDLE, ROOT, table

FIGURES = ROOT / "deploy" / "capacity.json"
PAGE = ROOT / "docs" / "capacity.md"
BEGIN, END = "<!-- capacity -->", "<!-- /capacity -->"
RATES = (10, 50, 100, 250, 500, 1000, 2000)
# Of what a core could do at most: the rest is for peaks within a second, garbage, the kernel and the exporter.
BUSY = 0.6
_GB, _MB, _DAY_S = 1e9, 1e6, 86_400
# Redis, beyond its rows: its own structures, clients, and the fragments of memory that was given back.
_REDIS_SPARE = 1.5
# Page cache of what is being written, the exporter of traces, the system's own.
_SHARED_GB = 0.3


def tables(figures: dict[str, Any]) -> list[str]:
    """The generated part of the page."""
    cpu_us, memory = float(figures["cpu_us_per_decision"]), float(figures["worker_rss_bytes"])
    journal, keys, index = (float(figures[f"{name}_bytes_per_decision"]) for name in ("journal", "keys", "index"))
    rows = []
    for rate in RATES:
        cores = rate * cpu_us / 1e6 / BUSY
        workers = max(1, math.ceil(cores))
        stored = rate * _DAY_S
        rows.append(
            (
                f"{rate:,}",
                f"{cores:.2f}",
                workers,
                f"{workers * memory / _GB + _SHARED_GB:.1f}",
                f"{stored * (journal + keys) / _GB:.1f}",
                f"{stored * index / _GB:.2f}",
            )
        )
    head = (
        f"From {cpu_us:,.0f} µs of CPU a decision ({figures['cpu_from']}), cores {BUSY:.0%} busy on average; "
        f"{journal:,.0f} bytes of journal, {keys:,.0f} of keys and {index:,.0f} of index a decision; "
        f"{memory / _MB:,.0f} MB a worker ({figures['bytes_from']})."
    )
    columns = ("decisions/s", "cores", "workers", "memory, GB", "journal a day, GB", "index a day, GB")
    lines = ["", head, "", *table(columns, rows)]
    lines += [f"Redis: {figures['redis_from']}.", ""]
    per_subject = sum(one["bytes"] for one in figures["redis_rows"].values() if one["of"] == "subject")
    kinds = [(name, one["of"], f"{one['value_bytes']:,}", f"{one['bytes']:,}") for name, one in _sorted(figures)]
    lines += table(("view", "one row for each", "value, bytes", "in Redis, bytes"), kinds)
    others = sum(one["bytes"] for one in figures["redis_rows"].values() if one["of"] != "subject")
    lines += [
        f"An applicant with a row in every view about applicants takes {per_subject:,} bytes; one of every other",
        f"kind of entity together {others:,}. With half as much again for Redis itself:",
        "",
    ]
    people = [
        (
            f"{n:,}",
            f"{n * per_subject * _REDIS_SPARE / _GB:,.2f}",
            f"{n * (per_subject + others) * _REDIS_SPARE / _GB:,.2f}",
        )
        for n in (10_000, 100_000, 1_000_000, 10_000_000)
    ]
    return lines + table(("applicants", "their rows, GB", "and one of every other entity each, GB"), people)


def _sorted(figures: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from sorted(figures["redis_rows"].items(), key=lambda one: (one[1]["of"] != "subject", one[0]))


def filled(page: str, figures: dict[str, Any]) -> str:
    """The page with its tables as the figures have them."""
    head, _, rest = page.partition(BEGIN)
    tail = rest.partition(END)[2]
    return head + BEGIN + "\n" + "\n".join(tables(figures)).strip() + "\n" + END + tail


def cpu_from_bench(figures: dict[str, Any]) -> None:
    """Takes the CPU of a decision over from bench.json: the median of what was measured with calls in flight."""
    bench = json.loads((ROOT / "bench.json").read_text("utf-8"))
    found = sorted(
        float(one["cpu_us"]) for one in bench["results"] if one["variant"] == "assay" and one["concurrency"] > 1
    )
    figures["cpu_us_per_decision"] = found[len(found) // 2]
    figures["cpu_from"] = f"bench.json of {bench['date'][:10]}, {bench['machine']['cpu']}, with many calls in flight"


def measure(figures: dict[str, Any]) -> None:
    """Measures bytes with a real redis-server and a real server."""
    from bench.run import SERVICE
    from bench.stores import _settings
    from bench.targets import ask, free_port, server, wait_until_serving
    from bench.workload import lay_out
    from engine.bootstrap_stores import open_store
    from engine.bundle.load import load_bundle
    from engine.config import load_config
    from engine.features.store import event_time_of, parse_key, row_key
    from engine.features.stores.embedded import EmbeddedStore

    binary = shutil.which("redis-server")
    if binary is None:
        sys.exit("redis-server is not installed (Debian: apt-get install redis-server)")
    catalogue = load_bundle(BUNDLE, scenarios=False).catalogue.file
    core, copies = min(os.sched_getaffinity(0)), 40
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="assay-capacity-")))
        port, engine_port = free_port(), free_port()
        stack.enter_context(
            server(
                [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(scratch)], port, core
            )
        )
        used, count = _asker(port)
        work = lay_out(scratch / "laid", BUNDLE)
        laid = EmbeddedStore(scratch / "laid", readonly=True)
        by_view: dict[str, list[tuple[bytes, bytes]]] = {}
        for key, value in laid.scan():
            by_view.setdefault(parse_key(key).view, []).append((key, value))
        laid.close()
        settings = _settings("redis", scratch, BUNDLE, port)
        store = open_store(load_config(environment={"PATH": os.environ["PATH"], **settings}))
        rows: dict[str, dict[str, Any]] = {}
        try:
            for view, held in by_view.items():
                before = used(), count()
                for copy in range(copies):
                    for key, value in held:
                        entity, entity_id, _ = parse_key(key)
                        again = row_key(entity, f"{entity_id}-{copy:06d}", view)
                        store.write([(again, value, event_time_of(value))])
                entity = catalogue.views[view].entity
                of = "subject" if catalogue.entities[entity].key == "subject" else entity
                rows[view] = {
                    "of": of,
                    "value_bytes": round(sum(len(value) for _, value in held) / len(held)),
                    "bytes": round((used() - before[0]) / (count() - before[1])),
                }
            for held in by_view.values():
                store.write([(key, value, event_time_of(value)) for key, value in held])
        finally:
            store.close()
        command = [sys.executable, "-m", "engine.cli", "serve"]
        environment = {
            **settings,
            "ASSAY_SERVER_ADDRESS": f"127.0.0.1:{engine_port}",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}",
        }
        with server(command, engine_port, core, environment) as pid:
            wait_until_serving(engine_port, SERVICE)
            decided = 0
            for _ in range(5):
                decided += len(ask(engine_port, work.requests).messages)
            figures["worker_rss_bytes"] = _rss(pid)
            counters = _counters(port, catalogue)
        journal = Path(settings["ASSAY_RECORD_PATH"])
        sizes = {name: sum(p.stat().st_size for p in journal.glob(name)) for name in ("*.journal", "keys/*.keys")}
        index = sum(p.stat().st_blocks * 512 for p in (journal / "index").glob("data.mdb"))
        figures["journal_bytes_per_decision"] = round(sizes["*.journal"] / decided)
        figures["keys_bytes_per_decision"] = 72
        figures["index_bytes_per_decision"] = round(index / decided)
        figures["redis_rows"] = rows | counters
    version = (
        subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
        .stdout.split("v=")[1]
        .split()[0]
    )
    figures["redis_from"] = (
        f"measured with redis-server {version}: what `used_memory` rises by for each further row of the shipped "
        "bundle, key and all; counters by MEMORY USAGE after five applications"
    )
    figures["bytes_from"] = (
        f"{decided:,} decisions of the shipped bundle's scenarios; a key for each, as if none applied twice in a day"
    )


def _asker(port: int) -> tuple[Callable[[], int], Callable[[], int]]:
    """What says how many bytes a Redis uses, and how many keys it has."""
    import redis

    client = redis.Redis(port=port)
    return lambda: int(client.info("memory")["used_memory"]), lambda: int(client.dbsize())


def _counters(port: int, catalogue: Any) -> dict[str, dict[str, Any]]:
    """What the counters that the engine wrote take, by view."""
    import redis

    from engine.features.store import parse_key

    client, found = redis.Redis(port=port), dict[str, list[tuple[int, int]]]()
    for key in client.scan_iter(count=1000):
        try:
            entity, _, view = parse_key(key)
        except ValueError:
            continue
        if view in catalogue.views and any(one.counter is not None for one in catalogue.views[view].features.values()):
            taken = int(client.memory_usage(key) or 0)
            found.setdefault(f"{entity} {view}", []).append((taken, int(client.strlen(key))))
    rows = {}
    for name, held in sorted(found.items()):
        entity, _, view = name.partition(" ")
        of = "subject" if catalogue.entities[entity].key == "subject" else entity
        rows[view] = {
            "of": of,
            "value_bytes": round(sum(length for _, length in held) / len(held)),
            "bytes": round(sum(taken for taken, _ in held) / len(held)),
        }
    return rows


def _rss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def main() -> None:
    """Writes deploy/capacity.json and the page."""
    parser = argparse.ArgumentParser(description="Fill the tables of docs/capacity.md.")
    parser.add_argument("--measure", action="store_true", help="measure bytes again")
    figures: dict[str, Any] = json.loads(FIGURES.read_text("utf-8")) if FIGURES.exists() else {}
    if parser.parse_args().measure or not figures:
        measure(figures)
    cpu_from_bench(figures)
    FIGURES.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    PAGE.write_text(filled(PAGE.read_text("utf-8"), figures), encoding="utf-8")


if __name__ == "__main__":
    main()
