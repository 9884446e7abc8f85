"""Errors become statuses: the code, the details, and nothing of what went wrong inside."""

from __future__ import annotations

import pytest

from engine.errors import (
    AssayError,
    FieldViolation,
    ModelError,
    RecordError,
    Refusal,
    RequestError,
    StoreError,
)
from engine.rpc.status import status_of
from tests.support.errors import failure_of_status

SECRET = "SECRET-4929"


@pytest.mark.parametrize(
    "error", [KeyError(SECRET), ValueError(SECRET), ModelError(SECRET), StoreError(SECRET), AssayError(SECRET)]
)
def test_what_was_not_foreseen_says_nothing_but_an_incident(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    failure = failure_of_status(status_of(error))
    assert failure.code.name == "INTERNAL"
    assert failure.reason == "INTERNAL"
    assert SECRET not in failure.everything
    incident = failure.metadata["incident_id"]
    assert incident in failure.message
    # The log has the same incident, and the cause.
    record = next(r for r in caplog.records if getattr(r, "incident_id", "") == incident)
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_incidents_differ() -> None:
    ids = {failure_of_status(status_of(KeyError("x"))).metadata["incident_id"] for _ in range(10)}
    assert len(ids) == 10


def test_a_journal_that_fails_is_a_reason_to_try_again() -> None:
    failure = failure_of_status(status_of(RecordError(SECRET)))
    assert failure.code.name == "UNAVAILABLE"
    assert failure.reason == "RECORD_FAILED"
    assert SECRET not in failure.everything
    assert failure.retry_ms


@pytest.mark.parametrize(
    ("reason", "code", "retry"),
    [
        ("NO_BUNDLE", "UNAVAILABLE", True),
        ("RECORD_FAILED", "UNAVAILABLE", True),
        ("OVERLOADED", "RESOURCE_EXHAUSTED", True),
        ("DECISION_IN_PROGRESS", "ABORTED", True),
        ("REQUEST_ID_REUSED", "ALREADY_EXISTS", False),
        ("DECISION_NOT_FOUND", "NOT_FOUND", False),
        ("DEADLINE_TOO_SHORT", "DEADLINE_EXCEEDED", False),
    ],
)
def test_refusals_carry_their_reason_and_a_hint_where_a_repeat_helps(reason: str, code: str, retry: bool) -> None:
    failure = failure_of_status(status_of(Refusal(reason, "why", {"request_id": "r"})))
    assert (failure.code.name, failure.reason, failure.message) == (code, reason, "why")
    assert failure.domain == "assay.decision.v1"
    assert failure.metadata == {"request_id": "r"}
    assert (failure.retry_ms is not None) == retry


def test_paths_of_a_batch_start_at_the_batch() -> None:
    error = RequestError([FieldViolation("application.amount", "is required"), FieldViolation("request_id", "is odd")])
    failure = failure_of_status(status_of(error, "requests[3]."))
    assert failure.fields == {
        "requests[3].application.amount": "is required",
        "requests[3].request_id": "is odd",
    }
    assert "requests[3].application.amount is required" in failure.message


@pytest.mark.parametrize("count", [1, 40, 41, 5000])
def test_an_error_stays_small_enough_for_a_header(count: int) -> None:
    bad = [FieldViolation(f'application.fields["{"x" * 61}..."].number{i}', "must be one " * 20) for i in range(count)]
    status = status_of(RequestError(bad))
    failure = failure_of_status(status)
    assert int(failure.metadata["fields"]) == count
    # Headers are base64 where they are binary, and 8 KB in all.
    assert len(status.SerializeToString()) * 4 / 3 + len(status.message) < 8000
