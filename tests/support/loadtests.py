"""Runs of the load tests, scenarios for them, and what a report must be."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from typer.testing import CliRunner

from loadtest.cli import app

from .server import ROOT

# The machine that runs the tests may be slow, and stand still: what is tested is what becomes of the figures.
PATIENT = """
timeout_ms = 60000
[population]
consumers = 40
companies = 10
[generator]
cpu_max_ratio = 1.0
lag_p99_max_ms = 30000
lateness_p99_max_ms = 30000
"""
OPEN = """
name = "open"
description = "a test"
{patient}
[open]
processes = {processes}
stages = [{{ duration_s = {duration_s}, rate_per_s = {rate} }}]
mix = [{{ ask = "decide_any", weight = 8 }}, {{ ask = "stream" }}, {{ ask = "get_decision" }}]
[limits]
{limits}
"""


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    code: int
    text: str


def environment() -> dict[str, str]:
    """The variables of a command."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ASSAY_", "LOADTEST_"))}
    return clean | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "gen")])}


def loadtest(*arguments: str | Path) -> Done:
    """Runs `python -m loadtest` to its end."""
    line = [sys.executable, "-m", "loadtest", *map(str, arguments)]
    done = subprocess.run(line, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    return Done(done.returncode, done.stdout + done.stderr)


def at_once(*arguments: str | Path) -> Done:
    """The same in this process, for what neither sends nor starts anything."""
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return Done(found.exit_code, found.output)


def open_scenario(
    path: Path, *, limits: str = "error_max_ratio = 0.0", rate: float = 30, duration_s: float = 4, processes: int = 1
) -> Path:
    """Writes a scenario of an open loop."""
    text = OPEN.format(patient=PATIENT, limits=limits, rate=rate, duration_s=duration_s, processes=processes)
    path.write_text(text, encoding="utf-8")
    return path


def result_of(out: Path) -> Mapping[str, Any]:
    """The result that a run left."""
    tree: dict[str, Any] = json.loads((out / "result.json").read_text(encoding="utf-8"))
    return tree


_VOID = {"meta", "br", "img", "link", "input", "hr"}
# Of SVG, written with their own end.
_EMPTY = {"line", "circle", "polyline", "polygon", "rect"}


class Checker(HTMLParser):
    """Whether every element that begins ends, in order; and everything that would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _VOID:
            self.open.append(tag)
        self.fetched += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "srcset", "action", "poster")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> ends nothing"
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _EMPTY


def check(path: Path) -> str:
    """The report's text, once it is found to be whole."""
    text = path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    assert checker.fetched == []
    assert not re.search(r"https?://|//[a-z]|@import|url\(", text)
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(svg)
        assert "nan" not in svg.lower().replace("aria-label", "")
    for name in {socket.gethostname(), getpass.getuser()}:
        # A user called root, say, may be a word of the page; a host or a person is none.
        if len(name) > 5:
            assert name not in text
    return text
