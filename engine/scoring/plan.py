"""The scoring part of a flow's plan, and the stage itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.domain.enums import Component
from engine.domain.facts import Facts
from engine.domain.score import ModelScore, ScoreStatus, no_score
from engine.errors import ModelError
from engine.scoring.model import BATCH_ROWS_MAX, Model

Tick = Callable[[], int]


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """One model of a flow.

    role: the name that policy tables use; slots: the feature slot of each input, in the model's order; needs: those
    slots and the slots that they are derived from; recodes: (input, table) for categories whose codes differ between
    catalogue and model.
    """

    role: str
    component: Component
    model: Model
    slots: NDArray[np.intp]
    needs: frozenset[int]
    recodes: tuple[tuple[int, NDArray[np.float64]], ...] = ()

    def is_blocked(self, facts: Facts) -> bool:
        """Whether something is absent without which the catalogue wants no score."""
        return bool(facts.blocked) and not facts.blocked.isdisjoint(self.needs)


def score(
    plans: Sequence[ModelPlan], facts: Facts, tick: Tick | None = None, ticks: list[int] | None = None
) -> list[ModelScore]:
    """Runs every model of the flow on one application. A model that fails gives no score; it stops nothing.

    ticks: is added the moment, by `tick`, at which each model was done.
    """
    scores = []
    for plan in plans:
        if plan.is_blocked(facts):
            scores.append(no_score(ScoreStatus.MISSING_INPUT))
        else:
            row = facts.values.take(plan.slots).reshape(1, -1)
            if plan.recodes:
                _recode(plan, row)
            scores += _run(plan.model, row)
        if tick is not None and ticks is not None:
            ticks.append(tick())
    return scores


def score_many(
    plans: Sequence[ModelPlan], many: Sequence[Facts], tick: Tick | None = None, ticks: list[int] | None = None
) -> list[list[ModelScore]]:
    """Runs every model on many applications: in one run where the model is proven to give the same bits for a row
    alone and in a batch, one by one where it is not. Gives one list of scores an application. ticks: as `score` says.
    """
    if len(many) == 1:
        return [score(plans, many[0], tick, ticks)]
    values = np.concatenate([facts.values for facts in many]).reshape(len(many), -1)
    blocked = any(facts.blocked for facts in many)
    by_model: list[list[ModelScore]] = []
    for plan in plans:
        rows = values.take(plan.slots, axis=1)
        if plan.recodes:
            _recode(plan, rows)
        able = [index for index, facts in enumerate(many) if not plan.is_blocked(facts)] if blocked else None
        if able is None or len(able) == len(many):
            scores = _run_in_steps(plan.model, rows)
        else:
            scores = [no_score(ScoreStatus.MISSING_INPUT)] * len(many)
            for index, answer in zip(able, _run_in_steps(plan.model, rows[able]), strict=True):
                scores[index] = answer
        by_model.append(scores)
        if tick is not None and ticks is not None:
            ticks.append(tick())
    return list(map(list, zip(*by_model, strict=True))) if by_model else [[] for _ in many]


def _run_in_steps(model: Model, rows: NDArray[np.float64]) -> list[ModelScore]:
    """Runs as many rows together as the model is proven for."""
    step = BATCH_ROWS_MAX if model.batchable else 1
    if len(rows) <= step:
        return _run(model, rows) if len(rows) else []
    return [score for start in range(0, len(rows), step) for score in _run(model, rows[start : start + step])]


def _run(model: Model, rows: NDArray[np.float64]) -> list[ModelScore]:
    """Runs rows together; should that fail, one by one, so that each has the answer it would have alone."""
    try:
        return model.run(rows)
    except ModelError:
        if len(rows) == 1:
            return [no_score(ScoreStatus.FAILED)]
        return [_run(model, rows[i : i + 1])[0] for i in range(len(rows))]


def _recode(plan: ModelPlan, rows: NDArray[np.float64]) -> None:
    for column, table in plan.recodes:
        codes = rows[:, column]
        known = ~np.isnan(codes)
        rows[known, column] = table[codes[known].astype(np.intp)]
