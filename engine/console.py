"""What commands say on standard output and standard error, and how they end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from engine.errors import Problem

out = Console()
err = Console(stderr=True)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="Settings file. Absent: $ASSAY_CONFIG, else assay.toml.")
]


def say(text: str) -> None:
    """One line of the answer, as it is."""
    out.print(text, markup=False, highlight=False, soft_wrap=True)


def warn(text: str, style: str = "") -> None:
    """One line beside the answer."""
    err.print(text, markup=False, highlight=False, soft_wrap=True, style=style)


def fail(title: str, problems: Sequence[Problem] = ()) -> NoReturn:
    """Tells everything that is wrong and ends with exit code 1."""
    count = len(problems)
    noun = "problem" if count == 1 else "problems"
    warn(f"{title}: {count} {noun}" if problems else title, "bold red")
    for problem in problems:
        where = f"{problem.file}: {problem.place}" if problem.place else problem.file
        warn(f"  {where}", "bold")
        warn(f"    {problem.message}")
        warn(f"    -> {problem.fix}", "dim")
    raise typer.Exit(1)
