"""The closed loop: runs Locust with a scenario's users and shape as processes of its own, and reads their figures."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtest.measures import Measures
from loadtest.problems import CouldNotRun
from loadtest.scenario import Scenario
from loadtest.server import free_port, python_path
from loadtest.target import Target

LOCUSTFILE = Path(__file__).resolve().parent / "locustfile.py"
_STOP_S = 15
_SLACK_S = 120.0


def environment(scenario: Scenario, target: Target, population: Path, out: Path | None) -> dict[str, str]:
    """The variables of a Locust process. out: the directory for what its processes measured, None for none."""
    made = {name: value for name, value in os.environ.items() if not name.startswith(("LOADTEST_", "LOCUST_"))}
    made |= {
        "PYTHONPATH": python_path(),
        "LOADTEST_SCENARIO": scenario.model_dump_json(),
        "LOADTEST_TARGET": target.to_json(),
        "LOADTEST_POPULATION": str(population),
    }
    return made | ({"LOADTEST_OUT": str(out)} if out is not None else {})


def command(scenario: Scenario, target: Target, *options: str) -> list[str]:
    """The command line of Locust, master and workers and all."""
    driver = scenario.locust
    assert driver is not None
    made = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--host", target.address]
    made += ["--stop-timeout", str(_STOP_S), *options]
    if driver.processes > 1:
        # The master listens on the loopback alone, and on a port of this run's own.
        port = str(free_port())
        made += ["--processes", str(driver.processes), "--master-bind-host", "127.0.0.1"]
        made += ["--master-bind-port", port, "--master-port", port]
    return made


def run_locust(scenario: Scenario, target: Target, population: Path, directory: Path) -> tuple[Measures, float]:
    """Runs the load, and gives what was measured and the moment of its start (seconds since 1970).

    directory: for Locust's own log and figures. Raises CouldNotRun when Locust fails.
    """
    outs, log = directory / "locust", directory / "locust.log"
    outs.mkdir()
    # No --html and no CSV of Locust's: they would hold a host name.
    line = command(scenario, target, "--headless", "--only-summary", "--loglevel", "WARNING")
    with log.open("wb") as output:
        process = subprocess.Popen(
            line,
            env=environment(scenario, target, population, outs),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        process.wait(scenario.duration_s + _STOP_S + _SLACK_S)
    except subprocess.TimeoutExpired:
        raise CouldNotRun(f"Locust does not end:\n{_end_of(log)}") from None
    finally:
        end(process)
    driver = scenario.locust
    assert driver is not None
    files = sorted(outs.glob("*.json"))
    if process.returncode or len(files) != driver.processes:
        told = f"{len(files)} of {driver.processes} processes left their figures"
        raise CouldNotRun(f"Locust ended with {process.returncode}, and {told}:\n{_end_of(log)}")
    measures, began_s = Measures(scenario.interval_s), float("inf")
    for file in files:
        wire = json.loads(file.read_text(encoding="utf-8"))
        measures.add(wire)
        began_s = min(began_s, wire["began_s"])
    return measures, began_s


def end(process: subprocess.Popen[bytes], signals: Sequence[int] = (signal.SIGTERM, signal.SIGKILL)) -> None:
    """Ends Locust and its workers, which are a process group."""
    for number in signals:
        if process.poll() is not None:
            break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)


def _end_of(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-3000:]
