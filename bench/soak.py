"""Whether a server's memory stays where it is: an hour's worth of calls as fast as they are answered, its memory noted.

    python -m bench.soak                     # 360,000 calls of workload W1; figures into bench.json, under "soak"

An hour's worth is that of a host that decides a hundred times a second. Everything is on, as in `bench.whole`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import w1
from bench.messages import GeneratorError
from bench.procfs import machine
from bench.run import ROOT, Options, cores, generate
from bench.targets import TargetError
from bench.watched import collector
from bench.whole import DIRECT, memory_mib, redis, start
from engine.bootstrap_stores import open_store
from engine.bundle.load import default_bundle
from engine.config import load_config

_EVERY_S = 5.0


def run(calls: int, out: Path) -> dict[str, Any]:
    """Sends so many calls, adds the figures to `out`, and returns them."""
    server_core, other_core = cores()
    (ROOT / "build").mkdir(exist_ok=True)
    options = Options(1, 20.0, 0.5, (32,), default_bundle(), True, 0, 0)
    samples: list[tuple[float, int, int, int]] = []
    with tempfile.TemporaryDirectory(dir=ROOT / "build", prefix="bench.") as name, ExitStack() as stack:
        scratch = Path(name)
        bundle = w1.write_bundle(default_bundle(), scratch / "bundle")
        settings = {
            "ASSAY_STORE_KIND": "redis",
            "ASSAY_REDIS_ADDRESSES": redis(stack, scratch, other_core),
            "ASSAY_BUNDLE_PATH": str(bundle),
        }
        store = open_store(load_config(environment=settings), guarded=False)
        try:
            work = w1.lay_out(store, default_bundle(), bundle)
        finally:
            store.close()
        settings["ASSAY_TRACING_ENDPOINT"] = collector(stack, other_core)
        target = start(stack, DIRECT, settings, scratch, work.requests, server_core)
        done, ended, began_s = 0, threading.Event(), time.monotonic()

        def note() -> None:
            while not ended.wait(_EVERY_S):
                both = memory_mib(target.pid), memory_mib(target.pid, "RssAnon")
                samples.append((round(time.monotonic() - began_s), done, *both))

        noting = threading.Thread(target=note)
        noting.start()
        try:
            while done < calls:
                done += int(generate(target, 32, options, other_core)["calls"])
                own = memory_mib(target.pid, "RssAnon")
                print(f"{done} calls, {memory_mib(target.pid)} MiB, {own} its own", flush=True)
        finally:
            ended.set()
            noting.join()
    tenth = max(1, len(samples) // 10)
    figures = {
        "machine": machine(),
        "calls": done,
        "seconds": round(time.monotonic() - began_s),
        "memory_mib_first_tenth": max(one[2] for one in samples[:tenth]),
        "memory_mib_second_half_min": min(one[2] for one in samples[len(samples) // 2 :]),
        "memory_mib_most": max(one[2] for one in samples),
        "own_mib_first_tenth": max(one[3] for one in samples[:tenth]),
        "own_mib_most": max(one[3] for one in samples),
        "samples": [{"s": s, "calls": n, "memory_mib": m, "own_mib": own} for s, n, m, own in samples],
    }
    whole = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    whole["soak"] = figures
    out.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="Watch a server's memory over an hour's worth of calls.")
    parser.add_argument("--calls", type=int, default=360_000)
    parser.add_argument("--out", type=Path, default=ROOT / "bench.json")
    given = parser.parse_args()
    try:
        figures = run(given.calls, given.out)
    except (TargetError, GeneratorError) as error:
        sys.exit(f"bench: {error}")
    print({key: value for key, value in figures.items() if key != "samples"})


if __name__ == "__main__":
    main()
