"""What can go wrong with a run itself, and how a run ends."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How `python -m loadtest` ends, for CI."""

    PASSED = 0
    # A limit of the scenario is broken, or the second run of a comparison is worse.
    LIMITS_BROKEN = 1
    # Nothing was measured: a scenario at fault, no server, a command line at fault.
    COULD_NOT_RUN = 2
    # The generator was the limit: the figures say nothing about the server, whichever way they look.
    GENERATOR_LIMITED = 3
    # Stopped by hand.
    INTERRUPTED = 130


class CouldNotRun(Exception):
    """A run that did not come about. The message says what, where, and what to do."""
