"""The commands of `python -m loadtest`."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from loadtest import comparing, population, results, summary
from loadtest.locust_driver import command, end, environment
from loadtest.overrides import overridden
from loadtest.prepare import prepare
from loadtest.problems import CouldNotRun, ExitCode
from loadtest.report import compare_report, run_report
from loadtest.runner import check_target, run, server_of
from loadtest.scenario import SCENARIOS, Scenario, read
from loadtest.target import Target

_console = Console(stderr=True, highlight=False, soft_wrap=True, width=None if sys.stderr.isatty() else 150)
app = typer.Typer(
    help="Load tests. Ends with 0 when all limits were kept, 1 when one is broken (or the second of two runs is "
    "worse), 2 when nothing could be measured, 3 when the generator was the limit.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

OUT = Path("build/load")
_Address = Annotated[
    str, typer.Option("--address", "-a", help="HOST:PORT of a server that is there. Absent: one of its own is started.")
]
_Admin = Annotated[
    str, typer.Option("--admin-address", help="Where that server's AdminService listens, for operators.")
]
_Duration = Annotated[float | None, typer.Option(min=1, help="Stretch or shorten the whole to so many seconds.")]
_BundlePath = Annotated[
    str, typer.Option("--bundle-path", help="A bundle's directory on that server's machine, for operators to load.")
]
_Ca = Annotated[str, typer.Option("--tls-ca", metavar="FILE", help="Speak TLS, and trust this authority.")]
_Cert = Annotated[str, typer.Option("--tls-cert", metavar="FILE", help="The client's own certificate.")]
_Key = Annotated[str, typer.Option("--tls-key", metavar="FILE", help="And its key.")]
_Header = Annotated[
    list[str] | None, typer.Option("--header", metavar="NAME=VALUE", help="Metadata sent with every call.")
]
_Metrics = Annotated[str, typer.Option("--metrics", metavar="URL", help="The server's /metrics, for the report.")]
_Out = Annotated[
    Path | None, typer.Option("--out", help="Directory for result.json and report.html. Absent: build/load/NAME-TIME.")
]
_Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PLACE=VALUE", help="Put a value over the scenario's: locust.processes=2."),
]
_NoRows = Annotated[bool, typer.Option("--no-rows", help="The server holds the population's rows already.")]


@app.command("run")
def run_command(
    scenario: Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped scenario.")] = "two_minutes",
    address: _Address = "",
    admin_address: _Admin = "",
    bundle_path: _BundlePath = "",
    tls_ca: _Ca = "",
    tls_cert: _Cert = "",
    tls_key: _Key = "",
    header: _Header = None,
    metrics: _Metrics = "",
    out: _Out = None,
    set_: _Set = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Sending processes.")] = None,
    users: Annotated[int | None, typer.Option(min=1, help="Users of a Locust scenario.")] = None,
    duration: _Duration = None,
    no_rows: _NoRows = False,
) -> None:
    """Run a scenario with the driver that it names: Locust users, or arrivals at a fixed rate."""
    with _ended():
        target = _target(address, admin_address, bundle_path, tls_ca, tls_cert, tls_key, header)
        wanted = overridden(scenario, set_, processes, duration, users=users)
        _run(wanted, target, metrics, out, load_rows=not no_rows)


@app.command("open")
def open_command(
    scenario: Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped scenario.")] = "steady_open",
    address: _Address = "",
    admin_address: _Admin = "",
    bundle_path: _BundlePath = "",
    tls_ca: _Ca = "",
    tls_cert: _Cert = "",
    tls_key: _Key = "",
    header: _Header = None,
    metrics: _Metrics = "",
    out: _Out = None,
    set_: _Set = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Sending processes.")] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, help="One stage of so many arrivals a second.")] = None,
    arrivals: Annotated[str | None, typer.Option(help="poisson or constant.")] = None,
    duration: _Duration = None,
    no_rows: _NoRows = False,
) -> None:
    """Run the open loop: arrivals that wait for nobody, latency from the moment that each was due."""
    with _ended():
        target = _target(address, admin_address, bundle_path, tls_ca, tls_cert, tls_key, header)
        wanted = overridden(scenario, set_, processes, duration, rate=rate, arrivals=arrivals)
        if wanted.open is None:
            raise CouldNotRun(f"{wanted.name} has Locust users: python -m loadtest run {scenario}")
        _run(wanted, target, metrics, out, load_rows=not no_rows)


@app.command("compare")
def compare_command(
    before: Annotated[Path, typer.Argument(help="result.json of the first run.")],
    after: Annotated[Path, typer.Argument(help="result.json of the second run.")],
    tolerance: Annotated[
        float, typer.Option(min=0, help="How much worse a figure may be, as a share: 0.1 is a tenth.")
    ] = comparing.TOLERANCE,
    out: Annotated[
        Path | None, typer.Option("--out", help="The report. Absent: compare.html beside the second.")
    ] = None,
) -> None:
    """Hold two runs against each other. Ends with 1 when the second is worse than the tolerance allows."""
    with _ended():
        first, second = results.read(before), results.read(after)
        found = comparing.compare(first, second, tolerance)
        path = out if out is not None else after.parent / "compare.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        compare_report.write(first, second, found, path)
        summary.show_comparison(_console, found, path)
        raise typer.Exit(found.exit_code)


@app.command("report")
def report_command(
    result: Annotated[Path, typer.Argument(help="result.json of a run.")],
    out: Annotated[Path | None, typer.Option("--out", help="The report. Absent: report.html beside it.")] = None,
) -> None:
    """Write the report of a run again, and end as the run did."""
    with _ended():
        found = results.read(result)
        path = out if out is not None else result.parent / "report.html"
        run_report.write(found, path)
        summary.show(_console, found, path)
        raise typer.Exit(found.exit_code)


@app.command("scenarios")
def scenarios_command() -> None:
    """List the scenarios that are shipped."""
    with _ended():
        for file in sorted(SCENARIOS.glob("*.toml")):
            one = read(file)
            driver = "run " if one.locust is not None else "open"
            _console.print(f"{driver}  {one.name:<20} {one.duration_s:>6g} s  {one.description}", soft_wrap=True)


@app.command("ui")
def ui_command(
    scenario: Annotated[str, typer.Argument(help="A scenario with Locust users.")] = "two_minutes",
    address: _Address = "",
    admin_address: _Admin = "",
    bundle_path: _BundlePath = "",
    tls_ca: _Ca = "",
    tls_cert: _Cert = "",
    tls_key: _Key = "",
    header: _Header = None,
    set_: _Set = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Locust processes.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The page's port, on 127.0.0.1.")] = 8089,
    shaped: Annotated[
        bool, typer.Option("--shaped", help="Let the scenario's shape say how many users there are.")
    ] = False,
    no_rows: _NoRows = False,
) -> None:
    """Locust's own page in the browser, with this scenario's users, until Ctrl-C."""
    with _ended():
        target = _target(address, admin_address, bundle_path, tls_ca, tls_cert, tls_key, header)
        _ui(overridden(scenario, set_, processes, None), target, port, shaped=shaped, load_rows=not no_rows)


def _run(scenario: Scenario, target: Target | None, metrics: str, out: Path | None, *, load_rows: bool) -> NoReturn:
    directory = out if out is not None else OUT / f"{scenario.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    result, report = run(scenario, target, metrics, directory, _say, load_rows=load_rows)
    summary.show(_console, result, report)
    raise typer.Exit(result.exit_code)


def _ui(scenario: Scenario, given: Target | None, port: int, *, shaped: bool, load_rows: bool) -> None:
    if scenario.locust is None:
        raise CouldNotRun(f"{scenario.name} has no Locust users")
    check_target(scenario, given)
    with tempfile.TemporaryDirectory(prefix="assay-loadtest-") as name:
        directory = Path(name)
        people = population.generate(scenario.population, time.time_ns() // 1000)
        population.save(people, directory / "population.bin")
        with server_of(scenario, given, "", directory, _say) as (target, _, _):
            prepare(target, people, load_rows=load_rows)
            line = command(scenario, target, "--web-host", "127.0.0.1", "--web-port", str(port))
            variables = environment(scenario, target, directory / "population.bin", None)
            variables["LOADTEST_SHAPED"] = "1" if shaped else "0"
            _say(f"http://127.0.0.1:{port} until Ctrl-C")
            process = subprocess.Popen(line, env=variables, cwd=directory, start_new_session=True)
            try:
                code = process.wait()
            finally:
                end(process, (signal.SIGINT, signal.SIGTERM, signal.SIGKILL))
            if code:
                raise CouldNotRun(f"Locust ended with {code}: is port {port} taken?")


def _say(text: str) -> None:
    _console.print(text, style="dim", markup=False)


def _target(
    address: str,
    admin_address: str,
    bundle_path: str,
    tls_ca: str,
    tls_cert: str,
    tls_key: str,
    header: list[str] | None,
) -> Target | None:
    headers = []
    for one in header or ():
        name, equals, value = one.partition("=")
        if not equals or not name:
            raise CouldNotRun(f"--header {one}: write NAME=VALUE")
        headers.append((name.lower(), value))
    if not address:
        if admin_address or bundle_path or tls_ca or tls_cert or tls_key:
            raise CouldNotRun(
                "--admin-address, --bundle-path and --tls-* are for a server that is there: say --address"
            )
        return None
    return Target(
        address.removeprefix("http://"), admin_address, tls_ca, tls_cert, tls_key, tuple(headers), bundle_path
    )


@contextlib.contextmanager
def _ended() -> Iterator[None]:
    """Turns what goes wrong into a message and an exit code, and SIGTERM into an end that cleans up."""

    def terminated(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    except CouldNotRun as error:
        _console.print(f"Could not run: {error}", style="red", markup=False)
        raise typer.Exit(ExitCode.COULD_NOT_RUN) from None
    except KeyboardInterrupt:
        _console.print("Stopped.", style="red")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> None:
    """Runs the command line."""
    app()
