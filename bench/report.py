"""The figures of a benchmark run: what they were measured with, and how they are shown."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bench.procfs import machine

ROOT = Path(__file__).resolve().parent.parent
ENGINE = "assay"
LIBRARIES = ("grpcio", "protobuf", "onnxruntime", "numpy", "zen-engine", "lmdb", "uvloop")


def show(figures: dict[str, Any], console: Console) -> None:
    """Prints the figures as tables."""
    sent = figures["sent"]
    title = f"Requests of {sent['request_bytes']} bytes, answers of {sent['answer_bytes']}; medians"
    table = Table(box=box.SIMPLE, title=title, padding=(0, 1), pad_edge=False)
    table.add_column("server", no_wrap=True)
    for column in ("calls", "CPU µs", "x echo", "calls/s", "p50 ms", "p99 ms", "gen µs"):
        table.add_column(column, justify="right", no_wrap=True)
    last = None
    for row in figures["results"]:
        if last not in (None, row["concurrency"]):
            table.add_section()
        last = row["concurrency"]
        cells = [row["variant"], str(row["concurrency"]), f"{row['cpu_us']:.0f}", f"{row['ratio_to_echo']:.2f}"]
        cells += [f"{row['rps']:,}", f"{row['p50_ms']:.2f}", f"{row['p99_ms']:.2f}", f"{row['generator_cpu_us']:.0f}"]
        table.add_row(*cells, style="bold" if row["variant"] == ENGINE else None)
    console.print(table)
    console.print(
        "calls: in flight; CPU µs: of the server, a call; x echo: times the grpc.aio echo under uvloop; "
        "gen µs: CPU of the generator, a call",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )
    for check in figures["cross_check"]:
        console.print(
            f"cross-check, {check['variant']}, {check['concurrency']} in flight: {check['h2gen_cpu_us']:.0f} µs a call "
            f"under this generator, {check['h2load_cpu_us']:.0f} under h2load",
            highlight=False,
            soft_wrap=True,
        )
    if "verdicts" in sent:
        console.print(f"verdicts of the requests sent: {sent['verdicts']}", highlight=False)


def about(settings: dict[str, Any], sent: dict[str, Any], load_before: float) -> dict[str, Any]:
    """What the figures were measured with."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        versions[name] = importlib.metadata.version(name)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": described.stdout.strip() or "unknown",
        "machine": {**machine(), "load_before": round(load_before, 2)},
        "versions": versions,
        "settings": settings,
        "sent": sent,
    }
