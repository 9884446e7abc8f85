"""How far a long command is, for a person who waits at a terminal. Elsewhere nothing is shown."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from engine.loading.batch import RowFile
from engine.loading.load import LoadReport


class _Shown:
    def __init__(self, console: Console, *columns: TextColumn | BarColumn | TimeRemainingColumn) -> None:
        self._console = console
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task: TaskID = self._progress.add_task("", total=None, text="")
        self._begin_s = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def _rate(self, count: int) -> str:
        seconds = time.monotonic() - self._begin_s
        return f"{count / seconds:,.0f}/s" if seconds > 0 else ""


class LoadProgress(_Shown):
    """Rows, rows a second and rows rejected; a bar over the file."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, BarColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())

    def __enter__(self) -> LoadProgress:
        self._progress.start()
        return self

    def opened(self, file: RowFile, report: LoadReport, absent: list[str]) -> None:
        """Begins. absent: features that the file has no column for."""
        self._progress.update(self._task, total=max(file.size, 1))
        self._begin_s = time.monotonic()
        notes = []
        if absent:
            notes.append(f"note: no column for {', '.join(absent)}: NULL in every row")
        if report.started_at:
            notes.append(f"note: going on after row {report.started_at:,}, where an earlier load was interrupted")
        for note in notes:
            self._console.print(note, markup=False, highlight=False, soft_wrap=True)

    def update(self, file: RowFile, report: LoadReport) -> None:
        """Some more rows are done."""
        rate = self._rate(report.rows - report.resumed_rows)
        text = f"{report.rows:,} rows, {rate}, {report.rejected:,} rejected"
        self._progress.update(self._task, completed=file.position, text=text)


class CountProgress(_Shown):
    """A count that rises, of nobody knows how many."""

    def __init__(self, console: Console, what: str) -> None:
        super().__init__(console, BarColumn(), TextColumn("{task.fields[text]}"))
        self._what = what

    def __enter__(self) -> CountProgress:
        self._progress.start()
        return self

    def update(self, count: int) -> None:
        """So many are done."""
        self._progress.update(self._task, text=f"{count:,} {self._what}, {self._rate(count)}")
