"""The feature stage for many applications of one flow at once: the same facts as `gather`, bit for bit, for less.

    rows of all -> one matrix of values -> what is absent, by application -> one list of numbers for all

Rows that are whole and of the flow's own schemas are read together (`engine.features.block`), and all comparisons are
made once. What is absent, null, stale or counted is settled for its application by the same code as in `gather`; an
application with a row that needs more than that is left to `gather` itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.domain.enums import FeatureStatus
from engine.domain.facts import Facts, Row
from engine.features.batch import Batch
from engine.features.gather import gather
from engine.features.plan import FeaturePlan
from engine.features.rules import derive

NAN = float("nan")
_PRESENT = FeatureStatus.PRESENT
_NOTHING: frozenset[int] = frozenset()
# Fewer applications than this are gathered one by one: numpy's calls cost more than they save.
_FEW = 3


def gather_many(
    plan: FeaturePlan,
    rows_of_each: Sequence[Sequence[Row]],
    requests: Sequence[Sequence[float]],
    sents: Sequence[Sequence[tuple[int, float]]],
    amounts: Sequence[float],
    terms_months: Sequence[float],
    now_us: int,
) -> list[Facts]:
    """The facts of each application: `[gather(plan, *one, now_us) for one in zip(rows_of_each, requests, ...)]`.

    All sequences are as long as there are applications; see `gather` for what each holds. The arrays of the facts are
    lines of shared matrices, each application's its own.
    """
    block, many, views = plan.block, len(rows_of_each), len(plan.views)
    if not many == len(requests) == len(sents) == len(amounts) == len(terms_months):
        raise ValueError("there must be rows, request fields, sent values, an amount and a term for each application")
    if block is None or many < _FEW or set(map(len, rows_of_each)) != {views}:
        each = zip(rows_of_each, requests, sents, amounts, terms_months, strict=True)
        return [gather(plan, *one, now_us) for one in each]
    batch = Batch(plan, many, now_us)
    batch.read(block, rows_of_each)
    batch.take_sent(sents)
    start, end, total = plan.request_start, plan.derived_start, plan.count
    matrix = batch.matrix
    if end > start:
        matrix[:, start:end] = requests
    matrix[:, end:total] = NAN
    matrix[:, total] = amounts
    matrix[:, total + 1] = terms_months
    matrix[:, total + 2] = now_us / 1e6
    if plan.constants:
        matrix[:, total + 3 :] = plan.constants
    batch.check_ranges()
    batch.apply_law(sents)
    lacking = batch.substitute()
    vectors: list[list[float]] = matrix.tolist()
    present, facts = (_PRESENT,) * views, []
    for index, vector in enumerate(vectors):
        if index in batch.alone:
            rows, amount, term = rows_of_each[index], amounts[index], terms_months[index]
            facts.append(gather(plan, rows, requests[index], sents[index], amount, term, now_us))
            continue
        values, statuses = batch.values[index], batch.statuses[index]
        read, substitutions, degraded, blocked = lacking.get(index) or (values, (), (), _NOTHING)
        if plan.derived:
            substitutions += derive(plan, vector, values, statuses)
            if read is not values:
                read[end:] = values[end:]
        seen = batch.seen.get(index)
        facts.append(
            Facts(
                values,
                read,
                statuses,
                batch.origins.get(index, plan.origins_template),
                vector,
                substitutions,
                degraded,
                blocked,
                tuple(batch.view_statuses[index]) if index in batch.view_statuses else present,
                tuple(batch.event_times[index]),
                () if seen is None else tuple(seen.faults),
            )
        )
    return facts
