"""How far a replay is, for a person who waits at a terminal. Elsewhere nothing is shown."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from engine.replay.tally import Tally


class ReplayProgress:
    """Records, records a second and differences so far; a bar where the number of records is known."""

    def __init__(self, console: Console, total: int | None) -> None:
        columns = (BarColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("", total=total, text="")
        self._begin_s = time.monotonic()

    def __enter__(self) -> ReplayProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, tally: Tally) -> None:
        """What was found so far."""
        different = tally.of("different")
        self._show(tally.records, f", {different:,} different" if different else "")

    def count(self, records: int) -> None:
        """So many are done."""
        self._show(records, "")

    def _show(self, records: int, more: str) -> None:
        seconds = time.monotonic() - self._begin_s
        pace = f", {records / seconds:,.0f}/s" if seconds > 0 else ""
        self._progress.update(self._task, completed=records, text=f"{records:,} records{pace}{more}")
