"""Batches in pieces, and the window of a stream."""

from __future__ import annotations

from google.rpc.status_pb2 import Status

from assay.client.batch import Piece, pieces, smaller
from assay.client.errors import from_status
from assay.client.window import Window
from assay.decision.v1.decision_pb2 import Decision
from assay.decision.v1.decision_service_pb2 import (
    DecideBatchItem,
    DecideBatchResponse,
    DecideRequest,
    DecideStreamResponse,
)
from engine.errors import Refusal, RequestError
from engine.rpc.status import status_of


def requests(count: int) -> list[DecideRequest]:
    return [DecideRequest(request_id=f"r-{i}") for i in range(count)]


def item(request: DecideRequest, error: Status | None = None) -> DecideBatchItem:
    if error is not None:
        return DecideBatchItem(request_id=request.request_id, error=error)
    return DecideBatchItem(request_id=request.request_id, decision=Decision(decision_id=f"d-{request.request_id}"))


BUSY = status_of(Refusal("DECISION_IN_PROGRESS", "wait"))
AWAY = status_of(Refusal("STORE_UNAVAILABLE", "wait"))
WRONG = status_of(RequestError([]))


def test_pieces_keep_the_order_and_both_bounds() -> None:
    made = list(pieces(requests(10), 4, 1 << 20))
    assert [len(piece) for piece in made] == [4, 4, 2]
    assert [one.request_id for piece in made for one in piece] == [f"r-{i}" for i in range(10)]
    size = requests(1)[0].ByteSize()
    assert [len(piece) for piece in pieces(requests(5), 100, 2 * size)] == [2, 2, 1]
    assert [len(piece) for piece in pieces(requests(2), 100, 1)] == [1, 1], (
        "one that is too large is a piece of its own"
    )
    assert list(pieces([], 4, 100)) == []


def test_who_has_no_id_gets_one_and_the_callers_message_stays_as_it_is() -> None:
    mine = DecideRequest()
    ((one, two),) = pieces([mine, mine], 4, 100)
    assert one.request_id and two.request_id and one.request_id != two.request_id
    assert mine.request_id == ""


def test_what_can_be_asked_again_is_asked_alone_and_the_longest_wait_counts() -> None:
    sent = requests(4)
    piece = Piece(sent)
    again = piece.answer(
        DecideBatchResponse(items=[item(sent[0]), item(sent[1], BUSY), item(sent[2], WRONG), item(sent[3], AWAY)]), "h"
    )
    assert again is not None and again.reason == "STORE_UNAVAILABLE" and again.retry_after_s == 1.0
    assert [one.request_id for one in piece.request().requests] == ["r-1", "r-3"]
    assert piece.answer(DecideBatchResponse(items=[item(sent[1]), item(sent[3], AWAY)]), "h") is not None
    found = piece.outcomes()
    assert [one.request_id for one in found] == ["r-0", "r-1", "r-2", "r-3"]
    assert [one.decision.decision_id if one.decision else "" for one in found] == ["d-r-0", "d-r-1", "", ""]
    assert [one.error.reason if one.error else "" for one in found] == ["", "", "INVALID_REQUEST", "STORE_UNAVAILABLE"]
    assert [one.error.request_id for one in found if one.error] == ["r-2", "r-3"]


def test_a_call_that_failed_fails_what_is_not_settled() -> None:
    sent = requests(2)
    piece = Piece(sent)
    piece.fail(from_status(AWAY))
    errors = [one.error for one in piece.outcomes()]
    assert [error.request_id if error else "" for error in errors] == ["r-0", "r-1"]


def test_the_servers_own_bound_is_taken_from_its_refusal() -> None:
    refusal = from_status(status_of(RequestError([], "BATCH_TOO_LARGE", {"items": "900", "items_max": "256"})))
    assert smaller(refusal, 900) == 256
    assert smaller(refusal, 256) == 0, "it would go on for ever"
    assert smaller(from_status(AWAY), 900) == 0


def decided(window: Window, request_id: str) -> None:
    assert (
        window.receive(DecideStreamResponse(request_id=request_id, decision=Decision(request_id=request_id)), "h")
        is None
    )


def test_a_window_gives_back_in_order_whatever_the_order_of_answers() -> None:
    window = Window(3)
    for one in requests(3):
        assert window.room
        window.add(one)
    assert not window.room
    assert [sent.request.request_id for sent in iter(window.send, None)] == ["r-0", "r-1", "r-2"]
    decided(window, "r-2")
    decided(window, "r-1")
    assert window.take() is None
    decided(window, "r-0")
    assert [one.request_id for one in iter(window.take, None)] == ["r-0", "r-1", "r-2"]
    assert window.room and not window.finished
    window.exhausted = True
    assert window.finished


def test_a_new_stream_gets_what_has_no_answer_and_nothing_else() -> None:
    window = Window(8)
    for one in requests(4):
        window.add(one)
    for _ in range(3):
        window.send()
    decided(window, "r-1")
    window.restart()
    assert [sent.request.request_id for sent in iter(window.send, None)] == ["r-0", "r-2", "r-3"]
    window.receive(DecideStreamResponse(request_id="r-9", decision=Decision()), "h")  # nobody asked
    assert window.take() is None


def test_an_answer_that_can_be_asked_again_is_and_others_end_their_item() -> None:
    window = Window(8)
    for one in requests(2):
        window.add(one)
    while window.has_unsent:
        window.send()
    found = window.receive(DecideStreamResponse(request_id="r-0", error=BUSY), "h")
    assert found is not None and found[1].reason == "DECISION_IN_PROGRESS"
    assert window.receive(DecideStreamResponse(request_id="r-1", error=WRONG), "h") is None
    assert window.take() is None
    window.again(found[0])
    sent = window.send()
    assert sent is not None and sent.request.request_id == "r-0"
    window.settle(found[0], found[1])
    ended = [window.take(), window.take()]
    assert [one.error.reason if one and one.error else "" for one in ended] == [
        "DECISION_IN_PROGRESS",
        "INVALID_REQUEST",
    ]
    assert ended[0] is not None and ended[0].error is not None and ended[0].error.attempts == 2


def test_two_requests_of_one_id_get_an_answer_each() -> None:
    window = Window(8)
    for _ in range(2):
        window.add(DecideRequest(request_id="same"))
    for _ in range(2):
        decided(window, "same")
    assert window.take() is not None and window.take() is not None
