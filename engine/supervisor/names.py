"""The names that workers write their journals under: the same after every restart.

Each worker has two names, of which it uses one. When it is replaced, the new process takes the other, because both
write for a while. Whoever takes a name up goes on with what its last process left: counts that are still to be made.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from engine.record.segments import list_segments, own_segments, segment_path, worker_of


def names_of(number: int) -> tuple[str, str]:
    """The two names of a worker."""
    return f"w{number}", f"w{number}b"


def other_name(number: int, name: str) -> str:
    """The name of the two that is not this one."""
    first, second = names_of(number)
    return second if name == first else first


def first_name(journal: Path, number: int, counted: bool) -> str:
    """The name to begin with: one that something was left under, if there is such a name. counted: whether
    applications are counted at all."""
    first, second = names_of(number)
    return second if counted and not is_left(journal, first) and is_left(journal, second) else first


def is_left(journal: Path, name: str) -> bool:
    """Whether the last process of a name may have ended before all that it recorded was counted."""
    try:
        segments = own_segments(journal, name)
        if not segments:
            return False
        content = json.loads((journal / f"velocity.{name}.json").read_text(encoding="utf-8"))
        end = segment_path(journal, segments[-1]).stat().st_size
        return (str(content["segment"]), int(content["offset"])) < (segments[-1], end)
    except FileNotFoundError:
        # Where nothing was ever counted there is nothing to go on with.
        return any(journal.glob("velocity.*.json"))
    except (OSError, ValueError, KeyError, TypeError):
        return True


def left_beyond(journal: Path, workers: int, counted: bool) -> list[str]:
    """Names that something was left under and that no process takes up with so many workers."""
    if not counted or not journal.is_dir():
        return []
    used = {name for number in range(workers) for name in names_of(number)}
    found = sorted({worker_of(segment) for segment in list_segments(journal)} - used)
    return [name for name in found if is_left(journal, name) and not in_use(journal, name)]


def in_use(journal: Path, name: str) -> bool:
    """Whether a process writes under a name now."""
    try:
        fd = os.open(journal / f"{name}.lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
