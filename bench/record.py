"""What a record costs: CPU of the whole process for one decision claimed and committed, and of the parts of that.

    python -m bench.record [--decisions 20000] [--threads 4] [--rounds 5] [--directory DIR] [--json FILE]

Every variant commits the same records (1,500 bytes open, 2,600 personal) from several threads, each run in a process of
its own; indexing behind the commits and the last flush are included. Variants take turns; the median is shown, and the
least, which others on the machine disturb less.

    off               the loop and the claim, nothing is written
    process           written, numbered and linked; survives kill -9
    process, known    the same, sealed under keys of subjects that were met before
    process, new      the same, sealed under a new key for every record
    disk, ...         the same, made durable before `commit` returns (of a twentieth of the decisions)

The parts are measured alone, in a loop of their own, as the best of five.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from zlib import crc32

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from engine.record.key_files import pack_slot
from engine.record.layouts import make_frame_header
from engine.record.log import DecisionLog
from engine.record.master import MasterKey

VARIANTS = ("off", "process", "process, known", "process, new", "disk", "disk, known", "disk, new")
_OPEN_BYTES, _PERSONAL_BYTES = 1500, 2600
_KNOWN = 100


def run(variant: str, decisions: int, directory: Path, thread_count: int) -> dict[str, float]:
    """CPU and wall microseconds of one decision."""
    durability, _, subjects = variant.partition(", ")
    master = MasterKey(b"m" * 32) if subjects else None
    log = DecisionLog.open(directory, durability="disk" if durability == "disk" else "process", master=master)
    record, personal = os.urandom(_OPEN_BYTES), os.urandom(_PERSONAL_BYTES)
    each = decisions // (20 if durability == "disk" else 1) // thread_count

    def work(thread: int) -> None:
        digest = b"d" * 33
        for n in range(each):
            name = f"{thread}.{n}"
            key = name.encode()
            log.claim(key, digest)
            if variant == "off":
                log.abandon(key)
                continue
            log.commit(key, name, digest, record, personal, f"s{n % _KNOWN}" if subjects == "known" else name)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(thread_count)]
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall_s = time.perf_counter() - wall_s
    log.close()
    cpu_s = time.process_time() - cpu_s
    count = each * thread_count
    return {"cpu_us": cpu_s / count * 1e6, "wall_us": wall_s / count * 1e6}


def parts() -> dict[str, float]:
    """CPU microseconds of what a commit is made of."""
    payload, personal, secret = os.urandom(_OPEN_BYTES + _PERSONAL_BYTES), os.urandom(_PERSONAL_BYTES), os.urandom(32)
    digest, link = sha256(payload).digest(), b"l" * 32
    master, cipher, nonce = MasterKey(b"m" * 32), AESGCM(secret), os.urandom(12)
    steps: dict[str, Callable[[], object]] = {
        "SHA-256 of the payload": lambda: sha256(payload).digest(),
        "frame header and link": lambda: make_frame_header(1, 4100, digest, 7, link, 0),
        "CRC-32 of the payload, which the hash took the place of": lambda: crc32(payload),
        "AES-256-GCM of the personal part": lambda: cipher.encrypt(os.urandom(12), personal, nonce),
        "a new key, without writing it": lambda: (
            AESGCM(master.wrap_key(os.urandom(32))),
            pack_slot("", master.subject_mark("a subject's id"), secret),
        ),
        "keyed digest of a payload of 600 bytes": lambda: master.payload_digest(payload[:600]),
    }
    with tempfile.TemporaryFile() as file:
        fd = file.fileno()
        steps["writing a key's slot"] = lambda: os.pwrite(fd, payload[:72], 0)
        steps["looking at a key's slot"] = lambda: os.pread(fd, 1, 0)
        return {name: _best_us(step) for name, step in steps.items()}


def _best_us(step: Callable[[], object], count: int = 4000) -> float:
    best = float("inf")
    for _ in range(5):
        begin = time.process_time()
        for _ in range(count):
            step()
        best = min(best, time.process_time() - begin)
    return best / count * 1e6


def main() -> None:
    """Run all variants in turn and print the medians."""
    parser = argparse.ArgumentParser(description="What a record costs.")
    parser.add_argument("--decisions", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, help="where journals are written; absent: the system's own")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="figures are added to it if it is there")
    parser.add_argument("--one", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        with tempfile.TemporaryDirectory(dir=options.directory) as directory:
            print(json.dumps(run(options.one, options.decisions, Path(directory), options.threads)))
        return
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for _ in range(options.rounds):
        for variant in VARIANTS:
            command = [sys.executable, "-m", "bench.record", "--one", variant, "--decisions", str(options.decisions)]
            command += ["--threads", str(options.threads)]
            if options.directory is not None:
                command += ["--directory", str(options.directory)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[variant].append(json.loads(done.stdout))
    medians = {v: {k: statistics.median(r[k] for r in rows) for k in rows[0]} for v, rows in found.items()}
    off = medians["off"]["cpu_us"]
    print(f"{'variant':58} {'CPU us':>8} {'beyond off':>10} {'least':>8} {'wall us':>8}")
    for variant, row in medians.items():
        least = min(r["cpu_us"] for r in found[variant])
        print(f"{variant:58} {row['cpu_us']:8.1f} {row['cpu_us'] - off:10.1f} {least:8.1f} {row['wall_us']:8.1f}")
    alone = parts()
    for name, cost in alone.items():
        print(f"{name:58} {cost:8.1f}")
    share(medians, off, options.out)
    if options.json is not None:
        options.json.write_text(json.dumps({"variants": medians, "parts": alone}, indent=2) + "\n", "utf-8")
    if options.out.exists():
        whole = json.loads(options.out.read_text(encoding="utf-8"))
        whole["record"] = {"variants": medians, "parts": alone}
        options.out.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def share(medians: Mapping[str, Mapping[str, float]], off_us: float, out: Path) -> None:
    """Prints what recording is of a whole decision: of W1 from `bench.watched`, where that was measured."""
    if not out.exists():
        return
    rows = json.loads(out.read_text(encoding="utf-8")).get("watched", {}).get("results", [])
    for row in rows:
        if row["variant"] == "exporter process":
            for variant, found in medians.items():
                part = (found["cpu_us"] - off_us) / row["cpu_us"]
                print(f"{variant}: {part:.1%} of a decision's CPU at {row['concurrency']} in flight")


if __name__ == "__main__":
    main()
