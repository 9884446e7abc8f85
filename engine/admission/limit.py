"""How many calls the server takes at once: a limit that finds its level.

A call's time from its arrival to its answer is held against what a call takes that has the server to itself. While the
mean of a window stays within `tolerance` times that, the limit rises by steps; beyond it the limit falls by the ratio
of the two. That is the gradient of Netflix' concurrency-limits (https://github.com/Netflix/concurrency-limits) with the
additive increase of TCP (AIMD). What a lone call takes is measured and not remembered for ever: under standing
overload, where no call is ever alone, the limit falls to one for a moment every few seconds, as Envoy's adaptive
concurrency filter does for its minRTT
(https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/adaptive_concurrency_filter). Without that
the measure drifts up with the queue that it is to judge.
"""

from __future__ import annotations

from dataclasses import dataclass

# A window ends after so many calls at least, so that one slow call is not taken for a trend.
_WINDOW_CALLS = 8
# The limit falls by no more than this in one window, and rises by a tenth or by one.
_FALL_MOST = 0.7
_RISE = 0.1
# How fast the measure of a lone call follows one that was quicker, and one that was slower: it stays near the quicker
# ones, for what slows a lone call is chance.
_DOWN, _UP = 0.3, 0.05
# Calls of a probe after which it ends, and those that it needs to count: then it says what a lone call takes now,
# whatever was believed.
_PROBE_CALLS, _PROBE_CALLS_LEAST = 8, 3
# A probe takes at most so many times what it is meant to, and the next comes after so many times what it took.
_PROBE_PATIENCE, _PROBE_RARITY = 10, 30


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """initial, least, most: the limit's values, in calls. tolerance: how many times what a lone call takes the mean
    call may take. window_s: how often the limit moves. probe_every_s, probe_most_s: how often a lone call is measured
    while there is none by itself, and how long that is to take."""

    initial: int = 16
    least: int = 4
    most: int = 256
    tolerance: float = 2.5
    window_s: float = 0.1
    probe_every_s: float = 10.0
    probe_most_s: float = 0.1


class GradientLimit:
    """The limit. One caller at a time; times in seconds on one clock, which only rises.

    alone_s: what a lone call takes, 0.0 before any was seen. quickest_s: the least that any took of late.
    """

    def __init__(self, settings: LimitSettings, now_s: float) -> None:
        self._settings = settings
        self._level = float(min(max(settings.initial, settings.least), settings.most))
        self.alone_s = 0.0
        self.quickest_s = 0.0
        self._window_at_s = self._moved_at_s = now_s
        # As if long ago, but for the first second: what the first calls take, all at once, tells little.
        self._alone_at_s = now_s - settings.probe_every_s + 1.0
        self._pause_s = settings.probe_every_s
        self._sum_s, self._calls, self._full = 0.0, 0, False
        self._probe_at_s: float | None = None
        self._probed_s: list[float] = []

    @property
    def level(self) -> int:
        """The limit, in calls, as it stands outside a probe."""
        return int(self._level)

    @property
    def probing(self) -> bool:
        """Whether a lone call is being measured."""
        return self._probe_at_s is not None

    @property
    def now(self) -> int:
        """The limit that holds at this moment."""
        return int(self._level) if self._probe_at_s is None else 1

    def was_full(self) -> None:
        """A call found no room: the limit may rise."""
        self._full = True

    def answered(self, arrived_s: float, now_s: float, ahead: int, alone: bool) -> None:
        """A call was answered. ahead: how many were in the server when it came; alone: whether there was no other all
        the while."""
        took_s = now_s - arrived_s
        if not self.quickest_s or took_s < self.quickest_s:
            self.quickest_s = took_s
        if alone:
            self._lone(took_s)
            self._alone_at_s = now_s
        elif not self.alone_s:
            self.alone_s = took_s
        if self._probe_at_s is not None:
            if alone and arrived_s >= self._probe_at_s:
                self._probed_s.append(took_s)
            self._check_probe(now_s)
            return
        if ahead + 1 >= self._level:
            self._full = True
        # What came before the limit last moved tells nothing of where it stands now.
        if arrived_s >= self._moved_at_s:
            self._sum_s += took_s
            self._calls += 1
        if self._calls >= _WINDOW_CALLS and now_s - self._window_at_s >= self._settings.window_s:
            self._move(now_s)

    def failed(self, now_s: float) -> None:
        """A call that was taken could not be answered in its time: too much was taken."""
        if now_s - self._moved_at_s >= self._settings.window_s:
            self._level = max(float(self._settings.least), self._level * 0.9)
            self._begin_window(now_s, moved=True)

    def refresh(self, now_s: float) -> None:
        """To be called now and then while calls are refused for want of room: measures a lone call when none was
        seen for long, and ends a measurement that has taken too long."""
        if self._probe_at_s is not None:
            self._check_probe(now_s)
        elif now_s - self._alone_at_s >= self._pause_s:
            self._probe_at_s, self._probed_s = now_s, []

    def _lone(self, took_s: float) -> None:
        held = self.alone_s
        self.alone_s = held + (took_s - held) * (_DOWN if took_s < held else _UP) if held else took_s
        # A server that has become slower for good is not held for ever to what was once possible.
        self.quickest_s += (self.alone_s - self.quickest_s) * 0.002

    def _check_probe(self, now_s: float) -> None:
        """Ends the probe when it has seen enough or takes too long. Those that were in when it began leave first."""
        assert self._probe_at_s is not None
        lasts_s = now_s - self._probe_at_s
        enough = _PROBE_CALLS_LEAST if lasts_s > self._settings.probe_most_s else _PROBE_CALLS
        if len(self._probed_s) < enough and lasts_s <= self._settings.probe_most_s * _PROBE_PATIENCE:
            return
        self._probe_at_s = None
        self._alone_at_s = now_s
        # What probing costs in answers stays a few in a hundred, however long a call takes.
        self._pause_s = max(self._settings.probe_every_s, lasts_s * _PROBE_RARITY)
        if len(self._probed_s) >= _PROBE_CALLS_LEAST:
            # The quicker half: the first ones still suffer from what was there before them.
            quick_s = sorted(self._probed_s)[: (len(self._probed_s) + 1) // 2]
            self.alone_s = sum(quick_s) / len(quick_s)
        self._begin_window(now_s, moved=True)

    def _move(self, now_s: float) -> None:
        settings, mean_s = self._settings, self._sum_s / self._calls
        target_s = settings.tolerance * self.alone_s
        level = self._level
        if mean_s > target_s:
            level = max(float(settings.least), level * max(_FALL_MOST, target_s / mean_s))
        elif self._full:
            level = min(float(settings.most), level + max(1.0, level * _RISE))
        moved = level < self._level
        self._level = level
        self._begin_window(now_s, moved)

    def _begin_window(self, now_s: float, moved: bool) -> None:
        self._window_at_s = now_s
        if moved:
            self._moved_at_s = now_s
        self._sum_s, self._calls, self._full = 0.0, 0, False
