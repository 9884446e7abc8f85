"""What pydantic says of a file's form, in words for the person who will mend it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

_PREFIX = "Value error, "
_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is an unknown entry",
    "timezone_aware": "has no time zone; write it with Z or an offset, 2026-01-15T12:00:00Z",
}
_FIXES = {
    "missing": "Add this entry.",
    "extra_forbidden": "Remove this entry or correct its spelling.",
}


def mistakes(error: ValidationError, fix: str) -> Iterator[tuple[tuple[str | int, ...], str, str]]:
    """Each mistake: its path, what is wrong, and what to do; `fix` is the advice where there is none more to the
    point."""
    for item in error.errors(include_url=False):
        path = tuple(part for part in item["loc"] if part != "[key]")
        message = _WORDS.get(item["type"]) or item["msg"].removeprefix(_PREFIX)
        yield path, message, _FIXES.get(item["type"], fix)
