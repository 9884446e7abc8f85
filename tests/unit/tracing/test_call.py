"""A call's trace, noted as it goes."""

from __future__ import annotations

import threading
import time

from engine.telemetry.tracing import shapes
from engine.telemetry.tracing.call import CallTrace, current
from engine.telemetry.tracing.context import begin
from engine.telemetry.tracing.shapes import SHAPES, misfits
from engine.telemetry.tracing.stage_run import spell_out
from engine.telemetry.tracing.trace_record import DECLINE

NO_ITEM = (None,) * len(SHAPES[shapes.DECIDE_ITEM].attributes)


def test_spans_nest_as_they_were_noted() -> None:
    call = CallTrace(begin("00-" + "ab" * 16 + "-" + "cd" * 8 + "-01", "a=1"), time.perf_counter_ns())
    tick = call.start_tick
    call.add(shapes.VALIDATE, tick, tick + 10, (0,))
    item = call.open(shapes.DECIDE_ITEM, tick + 10)
    call.add(shapes.REASONS, tick + 20, tick + 30, (3,), parent=item)
    call.add(shapes.MODEL, tick + 30, tick + 35, ("credit", "1", "failed", 1), status="it broke", parent=item)
    call.close(item, tick + 40, NO_ITEM)
    raised = call.open(shapes.DECIDE_ITEM, tick + 40)
    record = call.end(shapes.DECIDE_BATCH, tick + 50, ("OK", None, "h", 1, 2, 3.0, 2), DECLINE)
    spans = spell_out(record, SHAPES)
    assert [span.name for span in spans] == [
        "assay.decision.v1.DecisionService/DecideBatch",
        "assay.validate",
        "assay.decide",
        "assay.reasons",
        "assay.model",
        "assay.decide",
    ]
    root = spans[0].span_id
    assert [span.parent_id for span in spans] == [b"\xcd" * 8, root, root, spans[2].span_id, spans[2].span_id, root]
    assert [span.span_id for span in spans] == [call.id_at(place) for place in range(6)]
    assert (spans[4].status_code, spans[4].status_message) == (2, "it broke")
    assert (spans[raised].status_code, spans[raised].attributes) == (2, ())
    assert spans[0].end_ns - spans[0].start_ns == 50
    assert spans[3].start_ns - spans[0].start_ns == 20
    assert (record[3], record[7]) == ("a=1", DECLINE)
    assert abs(spans[0].start_ns - time.time_ns()) < 5e9
    assert not [wrong for span in record[8] for wrong in misfits(SHAPES[span[0]], span[6])]


def test_each_thread_works_for_a_call_of_its_own() -> None:
    mine = CallTrace(begin(), 0)
    current.call = mine
    seen: list[CallTrace | None] = []
    thread = threading.Thread(target=lambda: seen.append(current.call))
    thread.start()
    thread.join()
    assert seen == [None]
    assert current.call is mine
    current.call = None
