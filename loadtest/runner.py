"""One run from beginning to end: a server (its own, or one that is there), rows, load, result, report."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from loadtest import population, results
from loadtest.asks import NEEDS_ADMIN
from loadtest.locust_driver import run_locust
from loadtest.open_driver import run_open
from loadtest.prepare import prepare
from loadtest.problems import CouldNotRun
from loadtest.report import run_report
from loadtest.results import Result
from loadtest.scenario import Scenario
from loadtest.server import own_server, wait_serving
from loadtest.server_metrics import Watcher
from loadtest.target import Target

Say = Callable[[str], None]
_WAIT_S = 5.0


def run(
    scenario: Scenario,
    given: Target | None,
    metrics_url: str,
    out: Path,
    say: Say,
    *,
    load_rows: bool = True,
) -> tuple[Result, Path]:
    """Runs a scenario, and gives the result and the report's path.

    given: a server that is there, None for one of its own; out: the directory that result.json and report.html go to;
    load_rows: False where the server has the population's rows already. Raises CouldNotRun.
    """
    check_target(scenario, given)
    with tempfile.TemporaryDirectory(prefix="assay-loadtest-") as name:
        directory = Path(name)
        began = time.monotonic()
        people = population.generate(scenario.population, time.time_ns() // 1000)
        population.save(people, directory / "population.bin")
        say(f"{len(people.consumers):,} consumers and {len(people.companies):,} companies "
            f"made in {time.monotonic() - began:.1f} s")  # fmt: skip
        with server_of(scenario, given, metrics_url, directory, say) as (target, url, pid):
            served = prepare(target, people, load_rows=load_rows)
            if served.rows:
                say(
                    f"{served.rows:,} rows written in {served.loading_s:.1f} s; bundle {served.bundle} {served.version}"
                )
            what = "Locust users" if scenario.locust is not None else "arrivals at a fixed rate"
            say(f"{scenario.name}: {what}, {scenario.duration_s:g} s ...")
            drive = run_locust if scenario.locust is not None else run_open
            watcher = Watcher(url, pid)
            with watcher.watching():
                measures, began_s = drive(scenario, target, directory / "population.bin", directory)
        result = results.make(scenario, measures, began_s, served, watcher.result(began_s), own=given is None)
    out.mkdir(parents=True, exist_ok=True)
    result.write(out / "result.json")
    run_report.write(result, out / "report.html")
    return result, out / "report.html"


@contextlib.contextmanager
def server_of(
    scenario: Scenario, given: Target | None, metrics_url: str, directory: Path, say: Say
) -> Iterator[tuple[Target, str, int | None]]:
    """The server that is asked, until the block ends: (where, the address of its metrics, its process if it is our
    own)."""
    if given is not None:
        wait_serving(given, _WAIT_S)
        yield given, metrics_url, None
        return
    began = time.monotonic()
    with own_server(directory, scenario.server) as own:
        say(f"a server of its own at {own.target.address}, ready after {time.monotonic() - began:.1f} s")
        yield own.target, metrics_url or own.metrics_url, own.pid


def check_target(scenario: Scenario, given: Target | None) -> None:
    """Raises CouldNotRun where operators are among the users and there is no AdminService for them."""
    kinds = [part.kind for part in scenario.locust.users] if scenario.locust is not None else []
    asks = [part.ask for part in scenario.open.mix] if scenario.open is not None else []
    if "operator" not in kinds and NEEDS_ADMIN.isdisjoint(asks):
        return
    if given is None and not scenario.server.admin:
        raise CouldNotRun(f"{scenario.name} has operators: write admin = true under [server]")
    if given is not None and not given.admin_address:
        raise CouldNotRun(f"{scenario.name} has operators: say where the AdminService listens with --admin-address")
