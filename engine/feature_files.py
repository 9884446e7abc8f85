"""Loads a file of rows into a view: what `assay features load` does, without its words."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from engine.clock import Clock
from engine.errors import Problem
from engine.features.store import FeatureStore
from engine.features.writing.view_writer import ViewWriter
from engine.loading.batch import FileError, RowFile
from engine.loading.layout import LoadOptions, check_options, layout_of, open_layout
from engine.loading.load import Loader, LoadReport, open_rows
from engine.loading.rejects import RejectsFile
from engine.loading.state import StateFile, identity_of

BATCH_ROWS = 10_000

__all__ = ["BATCH_ROWS", "FileError", "FileProblems", "LoadOptions", "LoadReport", "LoadRequest", "load_file"]


class FileProblems(FileError):
    """A file, or what was said of it, has mistakes that concern every row; carries all of them."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(map(str, problems)))


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What to load. rejects: where to list rejected rows; resume: whether to go on where an earlier load of the very
    same file was interrupted; batch_rows: rows that are written, and noted as done, at once; store_label: which store
    it is, so that what was loaded into another is not taken for done."""

    path: Path
    options: LoadOptions
    rejects: Path | None = None
    resume: bool = True
    batch_rows: int = BATCH_ROWS
    store_label: str = ""


def load_file(
    request: LoadRequest,
    writer: ViewWriter,
    store: FeatureStore | None,
    clock: Clock,
    report: LoadReport,
    on_progress: Callable[[RowFile, LoadReport], None] | None = None,
    on_opened: Callable[[RowFile, LoadReport, list[str]], None] | None = None,
) -> StateFile | None:
    """Loads a file; without a store every row is checked and nothing is written. The report is filled as it goes, and
    right also when this raises.

    on_opened: told the file and the features that it has no column for, which will be NULL. Gives the file that keeps
    the progress, None without a store. Raises FileProblems, FileError, StoreError, OSError.
    """
    path, options = request.path, request.options
    with ExitStack() as closing:
        problems = check_options(options, writer, str(path))
        file = open_rows(path, options)
        closing.callback(file.close)
        if file.columns:
            layout = layout_of(file.columns, options, writer, str(path))
            if isinstance(layout, list):
                raise FileProblems([*problems, *layout])
        else:
            layout = open_layout(options, writer)
        if problems:
            raise FileProblems(problems)
        state = None
        rejects_bytes = 0
        if store is not None:
            state = StateFile(path, writer.name, _identity(request, writer))
            progress = state.read() if request.resume else None
            if progress is not None and (request.rejects is None or request.rejects.exists()):
                report.go_on(progress)
                rejects_bytes = progress.rejects_bytes
        rejects = None
        if request.rejects is not None:
            rejects = RejectsFile(request.rejects, rejects_bytes)
            closing.callback(rejects.close)
        if on_opened is not None:
            on_opened(file, report, [name for name in writer.by_name if name not in layout.features])
        loader = Loader(writer, store, clock, rejects, state)
        told = None if on_progress is None else lambda done: on_progress(file, done)
        loader.run(file, layout, report, request.batch_rows, told)
        return state


def _identity(request: LoadRequest, writer: ViewWriter) -> str:
    options = request.options
    cells = options.cells
    said = (
        options.id_column,
        options.event_time_column,
        options.event_time_us,
        sorted(options.names.items()),
        sorted(options.units.items()),
        sorted(options.ignored),
        (cells.epoch, cells.assume_utc, sorted(cells.nulls)),
        options.delimiter,
        None if request.rejects is None else str(request.rejects.absolute()),
        # What the catalogue says of cleaning decides how rows come out, too.
        writer.rules,
    )
    return identity_of(request.path, writer.name, writer.schema.fingerprint.hex(), repr(said), request.store_label)
