"""A server with several workers, and what can be seen of it from the outside."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from engine.supervisor.control import ask
from tests.support.server import ServerProcess

WAIT_S = 90.0


def status(home: Path) -> dict[str, Any]:
    """What the supervisor says of its workers."""
    return ask(home / "decisions", "status", WAIT_S)


def pids(home: Path) -> list[int | None]:
    """The process of each worker."""
    return [one["pid"] for one in status(home)["workers"]]


def wait_for(what: str, found: Callable[[], Any], timeout_s: float = WAIT_S) -> Any:
    """Waits until something is found. Raises AssertionError when it is not in time."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        value = found()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {timeout_s:g} s")


def all_serve(home: Path, without: Collection[int | None] = ()) -> bool:
    """Whether every worker serves, in no process of `without`, and one of them takes changes."""
    workers = status(home)["workers"]
    serve = all(one["phase"] == "serving" and one["pid"] not in without for one in workers)
    return serve and any(one["leads"] for one in workers)


def metrics_port(server: ServerProcess) -> int:
    """Where the metrics are."""
    for line in server.lines:
        if line.startswith("{") and json.loads(line).get("message") == "metrics":
            return int(json.loads(line)["url"].rpartition(":")[2].partition("/")[0])
    raise AssertionError("no metrics: " + server.output)


def page(server: ServerProcess, path: str) -> tuple[int, str]:
    """A page of the metrics' address: its status and its text."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port(server)}/{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def metrics(server: ServerProcess) -> Mapping[str, float]:
    """Every metric, the sum over its labels."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(page(server, "metrics")[1]):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z" and Path(f"/proc/{pid}").exists() and os.path.exists(f"/proc/{pid}/fd")
