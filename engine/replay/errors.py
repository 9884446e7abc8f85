"""How a replay ends when it cannot go on."""

from __future__ import annotations

from engine.errors import AssayError
from engine.replay.tally import Tally


class ReplayError(AssayError):
    """A replay cannot be run, or broke off: what happened, and what to do."""


class Interrupted(AssayError):
    """Someone wanted it to stop. tally: what was found until then."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        super().__init__("the replay was interrupted")
