"""The open loop: starts its sending processes, begins them all at one moment, and gathers what they measured."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from loadtest.measures import Measures
from loadtest.problems import CouldNotRun
from loadtest.scenario import Scenario
from loadtest.server import python_path
from loadtest.target import Target

_READY_S = 60.0
_LEAD_S = 0.3


def run_open(scenario: Scenario, target: Target, population: Path, directory: Path) -> tuple[Measures, float]:
    """Runs the load, and gives what was measured and the moment of its start (seconds since 1970).

    directory: for the files of the processes. Raises CouldNotRun when a process fails.
    """
    driver = scenario.open
    assert driver is not None
    measures = Measures(scenario.interval_s)
    outs = [directory / f"open-{number}.json" for number in range(driver.processes)]
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(_process(directory / f"open-{number}.log")) for number in range(driver.processes)
        ]
        for number, (process, out) in enumerate(zip(processes, outs, strict=True)):
            task = {
                "scenario": scenario.model_dump_json(),
                "target": target.to_json(),
                "population": str(population),
                "number": number,
                "of": driver.processes,
                "out": str(out),
            }
            _tell(process, json.dumps(task), directory, number)
        for number, process in enumerate(processes):
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise CouldNotRun(f"sending process {number} did not start:\n{_log(directory, number)}")
        begin_s = time.time() + _LEAD_S
        for number, process in enumerate(processes):
            _tell(process, repr(begin_s), directory, number)
        left_s = driver.duration_s + driver.drain_s + scenario.timeout_ms / 1000 + _READY_S
        for number, process in enumerate(processes):
            try:
                code = process.wait(max(begin_s + left_s - time.time(), 1.0))
            except subprocess.TimeoutExpired:
                raise CouldNotRun(f"sending process {number} does not end:\n{_log(directory, number)}") from None
            if code:
                raise CouldNotRun(f"sending process {number} failed:\n{_log(directory, number)}")
    for out in outs:
        measures.add(json.loads(out.read_text(encoding="utf-8")))
    return measures, begin_s


@contextlib.contextmanager
def _process(log: Path) -> Iterator[subprocess.Popen[str]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "loadtest.open_worker"],
            env={**os.environ, "PYTHONPATH": python_path()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _tell(process: subprocess.Popen[str], line: str, directory: Path, number: int) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(line + "\n")
        process.stdin.flush()
    except OSError:
        raise CouldNotRun(f"sending process {number} ended at once:\n{_log(directory, number)}") from None


def _log(directory: Path, number: int) -> str:
    return (directory / f"open-{number}.log").read_text(encoding="utf-8", errors="replace")[-3000:]
