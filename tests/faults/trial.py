"""One cell of the fault matrix: all is well, the fault comes, decisions are made, it goes, all is well again."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from tests.faults.desk import Answer, Desk, Reference, recovered

# What a fault may do to decisions: nothing at all, take some views away or all of them.
Effect = Literal["none", "some", "all"]
THREADS, EACH = 4, 25


@dataclass(frozen=True, slots=True)
class Fault:
    """begin, end: bring it about and undo it. delay_ms: what it adds to every decision at least.

    Whose effect is "none" must be tried with a patient desk and a patient store: otherwise a machine that stands still
    for a moment is taken for the fault.
    """

    name: str
    begin: Callable[[], object]
    end: Callable[[], object]
    effect: Effect = "all"
    delay_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Cell:
    """What was seen: verdicts; the slowest of the first calls, median and p99 of later ones, the time to recover."""

    store: str
    layout: str
    fault: str
    verdicts: str
    first_ms: float
    later_p50_ms: float
    later_p99_ms: float
    recovery_ms: float


@dataclass(slots=True)
class Matrix:
    """All cells of a test run."""

    cells: list[Cell] = field(default_factory=list)

    def lines(self) -> list[str]:
        """A table."""
        head = ("store", "fault", "verdicts", "first ms", "then p50", "p99", "back in ms")
        return ["{:<28} {:<27} {:<22} {:>9} {:>9} {:>7} {:>11}".format(*head)] + [
            f"{f'{c.store} {c.layout}':<28} {c.fault:<27} {c.verdicts:<22} "
            f"{c.first_ms:>9.1f} {c.later_p50_ms:>9.1f} {c.later_p99_ms:>7.1f} {c.recovery_ms:>11.0f}"
            for c in self.cells
        ]


def run(
    desk: Desk,
    fault: Fault,
    reference: Reference,
    matrix: Matrix,
    layout: str = "single",
    store: str = "",
    recovery_s: float = 60.0,
) -> list[Answer]:
    """Runs one cell. The desk's store is loaded and well. Gives the answers of the time when it was not."""
    assert desk.patient or fault.effect != "none"
    recovered(desk, recovery_s)
    try:
        fault.begin()
        first = [desk.decide() for _ in range(8)]
        with ThreadPoolExecutor(THREADS) as pool:
            many = [pool.submit(lambda: [desk.decide() for _ in range(EACH)]) for _ in range(THREADS)]
            later = [answer for one in many for answer in one.result()]
    finally:
        fault.end()
    back_s = recovered(desk, recovery_s)
    answers = first + later
    reference.check(answers)
    if fault.effect == "none":
        assert not any(answer.decision.substitutions for answer in answers)
    if fault.effect == "all":
        assert all(len(answer.lost) > 10 for answer in answers)
    assert min(answer.took_s for answer in answers) >= fault.delay_ms / 1000
    verdicts = {answer.verdict for answer in answers}
    took = [answer.took_s for answer in later]
    matrix.cells.append(
        Cell(
            store or desk.store.name,
            layout,
            fault.name,
            " ".join(sorted(verdicts)),
            1000 * max(a.took_s for a in first),
            1000 * statistics.median(took),
            1000 * statistics.quantiles(took, n=100)[98],
            1000 * back_s,
        )
    )
    return answers


def in_background(work: Callable[[], object], name: str, effect: Effect = "some") -> Fault:
    """A fault that comes and goes while decisions are made."""
    going: list[threading.Thread] = []

    def begin() -> None:
        going.append(threading.Thread(target=work))
        going[-1].start()

    return Fault(name, begin, lambda: going.pop().join(), effect)
