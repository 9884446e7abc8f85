"""Long work in Python beside calls that must stay fast."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

# How long one thread may keep the interpreter from the others. The usual 5 ms is longer than a whole decision.
_INTERVAL_S = 0.0005


class _Gentle:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count, self._usual_s = 0, 0.0

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._count == 0:
                self._usual_s = sys.getswitchinterval()
                sys.setswitchinterval(min(self._usual_s, _INTERVAL_S))
            self._count += 1
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1
                if self._count == 0:
                    sys.setswitchinterval(self._usual_s)


# Meanwhile the threads of this process hand the interpreter to one another ten times as often as usual, so that long
# work in one does not make short calls in others wait.
gently = _Gentle()
