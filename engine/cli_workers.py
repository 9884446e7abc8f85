"""`assay workers`: look at the workers of a server, and replace them one by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.config import Config, load_config
from engine.console import ConfigOption, fail, say, warn
from engine.errors import AssayError, ConfigError

workers_app = typer.Typer(help="Look after the workers of a server (server.workers).", no_args_is_help=True)
_STATUS_TIMEOUT_S = 10.0


@workers_app.command()
def status(
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print how each worker stands. Exit code 1 while not all serve."""
    answer = _ask(_settings(config).record.path, "status", _STATUS_TIMEOUT_S)
    workers = answer["workers"]
    if as_json:
        say(json.dumps(answer))
    else:
        for one in workers:
            say(_line(one))
        if answer["restarting"]:
            say("a rolling restart is under way")
    if not answer["ready"] or any(one["phase"] != "serving" for one in workers):
        raise typer.Exit(1)


@workers_app.command()
def restart(config: ConfigOption = None) -> None:
    """Replace all workers, one after another, without refusing a call; returns when it is done.

    New ones read the settings again. What the supervisor itself goes by stays: address, number of workers, metrics,
    traces, shipping.
    """
    settings = _settings(config)
    count = len(_ask(settings.record.path, "status", _STATUS_TIMEOUT_S)["workers"])
    server = settings.server
    each_s = 60.0 + 1.1 * server.connection_age_s + 2 * server.drain_grace_s
    answer = _ask(settings.record.path, "restart", count * each_s + 60.0)
    if answer["error"]:
        warn(f"not all workers are replaced ({answer['replaced']} are): {answer['error']}", "bold red")
        raise typer.Exit(1)
    say(f"{answer['replaced']} workers replaced")


def _settings(file: Path | None) -> Config:
    try:
        return load_config(file)
    except ConfigError as error:
        fail("The settings cannot be used", error.problems)


def _ask(directory: Path, what: str, timeout_s: float) -> dict[str, Any]:
    from engine.supervisor.control import ask

    try:
        return ask(directory, what, timeout_s)
    except AssayError as error:
        fail(str(error))


def _line(one: dict[str, Any]) -> str:
    place = "-" if one["pid"] is None else str(one["pid"])
    words = f"{one['name'] or 'w' + str(one['number'])}  {one['phase']}  pid {place}  for {one['served_s']:g} s"
    if one["leads"]:
        words += "  takes changes"
    if one["failures"]:
        words += f"  failed {one['failures']} times, last: {one['error'] or 'unknown'}"
    if one["phase"] == "waiting":
        words += f"  starts in {one['starts_in_s']:g} s"
    return words
