"""What every reference page is made with: its head, its tables, and the files it is read from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
BUNDLE = ROOT / "models" / "lending"
COMMAND = "make docs"


def page(title: str, source: str, body: Iterable[str]) -> str:
    """One page: a note that it is generated, the title, the body."""
    note = f"<!-- Generated from `{source}` by `{COMMAND}`. Do not edit: change the source, then run the command. -->"
    head = [note, "", f"# {title}", "", f"*Generated from `{source}` by `{COMMAND}`.*", ""]
    return "\n".join([*head, *body]).rstrip() + "\n"


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A Markdown table, and an empty line after it."""
    lines = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return [*lines, ""]


def read_yaml(path: Path) -> Any:
    """The content of a YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))
