"""Load tests: who asks what, how fast, what is measured, and what the figures are held against.

    python -m loadtest run two_minutes            Locust users (a closed loop) against a server of its own
    python -m loadtest open steady_open           a fixed rate of arrivals (an open loop), for true percentiles
    python -m loadtest compare a.json b.json      two runs beside each other
    python -m loadtest ui                         Locust's own page

`docs/load-testing.md` says how to read what comes out.
"""

from __future__ import annotations
