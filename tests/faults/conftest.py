"""What the tests of the fault matrix share. The matrix itself is printed when they are done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.features.store import FeatureStore
from tests.faults.desk import Desk, OpenDesk, Reference
from tests.faults.trial import Matrix

_matrix = Matrix()


@pytest.fixture(scope="session")
def matrix() -> Matrix:
    """Where every cell is noted."""
    return _matrix


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    """What the catalogue declares."""
    made = Reference(tmp_path_factory.mktemp("reference"))
    yield made
    made.close()


@pytest.fixture
def open_desk(tmp_path: Path) -> Iterator[OpenDesk]:
    """Makes desks that are closed after the test."""
    made: list[Desk] = []

    def make(store: FeatureStore, *, patient: bool = False) -> Desk:
        made.append(Desk(store, tmp_path, patient=patient))
        return made[-1]

    yield make
    for desk in made:
        desk.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the matrix."""
    if _matrix.cells:
        terminalreporter.section("fault matrix")
        for line in _matrix.lines():
            terminalreporter.write_line(line)
