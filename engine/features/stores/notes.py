"""What a store says of the read that its thread has just made: how often it was asked again, and whether a second
connection was asked as well. Seldom anything: whoever wants to know looks after the read, and clears it."""

from __future__ import annotations

import threading


class ReadNotes(threading.local):
    """Notes of this thread's last read."""

    retries: int = 0
    hedged: bool = False

    def take(self) -> tuple[int, bool]:
        """What was noted; nothing is from then on."""
        found = self.retries, self.hedged
        if found != (0, False):
            self.retries, self.hedged = 0, False
        return found


notes = ReadNotes()
