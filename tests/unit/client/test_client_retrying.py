"""What the client repeats, when, and how often."""

from __future__ import annotations

import copy
import pickle
import re
import threading

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status

from assay.client import Budget, Ejection, Hedge, Options, Retry, Then, Tls, errors, then
from assay.client.channels import addresses_of
from assay.client.course import Course, Shared
from assay.client.errors import AssayError, class_of, from_status
from assay.client.hedging import Delay
from assay.client.hosts import Host, Hosts, Trouble
from assay.decision.v1.error_reason_pb2 import ErrorReason
from engine.errors import FieldViolation, Refusal, RequestError
from engine.rpc.status import REASONS, code_of, status_of
from tools.docs_common import ROOT


def error(code: grpc.StatusCode, reason: str = "", retry_after_s: float | None = None) -> AssayError:
    return class_of(code, reason)(code, "no", reason=reason, retry_after_s=retry_after_s)


def engine_error(reason: str) -> AssayError:
    """What the client makes of the status that the engine really sends."""
    return from_status(status_of(Refusal(reason, "no", {"request_id": "r"})))


def course(count: int = 2, timeout_s: float = 60.0, **options: object) -> tuple[Course, Shared]:
    made = Options(**{"retry": Retry(base_s=0.001), **options})  # type: ignore[arg-type]
    shared = Shared(made, Hosts([Host(f"h{i}", ["lane"]) for i in range(count)], made.ejection))
    return Course(shared, "r-1", timeout_s), shared


# --- the table ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_of_the_engine_is_repeated_or_raised_as_the_page_says(reason: str) -> None:
    found = engine_error(reason)
    assert found.reason == reason and found.code is code_of(reason) and found.metadata == {"request_id": "r"}
    page = (ROOT / "docs/client.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| `{reason}` \| `(\w+)` \| `(\w+)` \| (.+?) \|", page, flags=re.M)
    assert row is not None, f"docs/client.md has no row of {reason}"
    assert (row[1], row[2]) == (code_of(reason).name, type(found).__name__)
    assert row[3].startswith({Then.RAISE: "raised", Then.ELSEWHERE: "another host", Then.LATER: "later"}[then(found)])


def test_the_integrators_page_says_what_to_do_about_every_reason() -> None:
    page = (ROOT / "docs/integrate-your-los.md").read_text(encoding="utf-8")
    assert [reason for reason in REASONS if not re.search(rf"^\| `{reason}` \| .+ \| .+ \|$", page, flags=re.M)] == []


@pytest.mark.parametrize("code", grpc.StatusCode)
def test_a_code_without_a_reason_is_repeated_only_where_that_is_safe(code: grpc.StatusCode) -> None:
    safe = {
        grpc.StatusCode.UNAVAILABLE: Then.ELSEWHERE,
        grpc.StatusCode.DEADLINE_EXCEEDED: Then.ELSEWHERE,
        grpc.StatusCode.ABORTED: Then.LATER,
    }
    assert then(error(code)) is safe.get(code, Then.RAISE)


def test_a_full_server_is_asked_again_only_when_it_says_when() -> None:
    assert then(error(grpc.StatusCode.RESOURCE_EXHAUSTED)) is Then.RAISE
    assert then(error(grpc.StatusCode.RESOURCE_EXHAUSTED, "OF_A_NEWER_SERVER", 0.2)) is Then.LATER


def test_a_reason_of_a_newer_server_has_the_class_of_its_code() -> None:
    assert type(error(grpc.StatusCode.RESOURCE_EXHAUSTED, "OF_A_NEWER_SERVER")) is errors.Overloaded
    assert type(error(grpc.StatusCode.DATA_LOSS, "OF_A_NEWER_SERVER")) is errors.ServerFailed
    assert set(REASONS) == {name.removeprefix("ERROR_REASON_") for name in list(ErrorReason.keys())[1:]}


# --- errors -------------------------------------------------------------------------------------------------------


def test_an_error_says_all_that_the_status_says_and_survives_a_copy() -> None:
    violations = [FieldViolation("application.amount", "is required"), FieldViolation("request_id", "is required")]
    found = from_status(status_of(RequestError(violations), "requests[3]."), trace_id="t" * 32, host="h:1")
    found.request_id = "r-1"
    assert type(found) is errors.InvalidRequest
    for one in (found, copy.copy(found), pickle.loads(pickle.dumps(found))):
        assert one.field_violations == (
            ("requests[3].application.amount", "is required"),
            ("requests[3].request_id", "is required"),
        )
        assert (one.reason, one.metadata, one.code) == (
            "INVALID_REQUEST", {"fields": "2"}, grpc.StatusCode.INVALID_ARGUMENT,
        )  # fmt: skip
        for told in ("INVALID_ARGUMENT/INVALID_REQUEST", "r-1", "h:1", "t" * 32, "application.amount is required"):
            assert told in str(one)


def test_details_of_somebody_else_are_no_reason_of_the_engine() -> None:
    status = Status(code=3, message="no")
    for detail in (ErrorInfo(reason="DRAINING", domain="gateway"), BadRequest()):
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    found = from_status(status)
    assert (found.reason, found.field_violations, type(found)) == ("", (), errors.InvalidRequest)
    assert from_status(Status(code=4711)).code is grpc.StatusCode.UNKNOWN


def test_a_retry_info_is_read_in_seconds() -> None:
    assert engine_error("DECISION_IN_PROGRESS").retry_after_s == pytest.approx(0.1)
    assert engine_error("DRAINING").retry_after_s is None


# --- waits and budget ---------------------------------------------------------------------------------------------


def test_waits_grow_are_spread_from_nothing_to_the_bound_and_come_after_the_servers_word() -> None:
    retry = Retry(base_s=0.1, wait_max_s=1.0)
    for attempts, bound in ((1, 0.1), (2, 0.2), (4, 0.8), (5, 1.0), (5_000, 1.0)):
        drawn = [retry.wait_s(attempts, None) for _ in range(400)]
        assert 0 <= min(drawn) < bound * 0.2 and bound * 0.8 < max(drawn) <= bound
    assert 2.0 <= retry.wait_s(1, 2.0) <= 2.1


def test_a_budget_lets_through_its_reserve_and_its_share_and_no_more() -> None:
    budget = Budget(ratio=0.1, reserve=10, per_s=0)
    assert sum(budget.take() for _ in range(100)) == 10
    for _ in range(1_000):
        budget.call()
    assert sum(budget.take() for _ in range(1_000)) == 10, "the bucket holds its reserve and no more"
    taken = 0
    for _ in range(1_000):
        budget.call()
        taken += budget.take()
    assert 98 <= taken <= 100


def test_time_gives_a_quiet_caller_retries_back() -> None:
    budget = Budget(ratio=0, reserve=1, per_s=1000)
    assert budget.take()
    threading.Event().wait(0.05)
    assert budget.take()


def test_threads_do_not_spend_a_token_twice() -> None:
    budget = Budget(ratio=0, reserve=500, per_s=0)
    taken: list[bool] = []
    threads = [threading.Thread(target=lambda: taken.extend(budget.take() for _ in range(200))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 500


# --- a course over its attempts -----------------------------------------------------------------------------------


def test_a_host_that_has_gone_is_left_at_once_and_the_wait_comes_when_all_were_tried() -> None:
    walk, _ = course(3, retry=Retry(attempts_max=9, base_s=5.0, wait_max_s=5.0))
    attempts = [walk.begin()]
    for _ in range(3):
        attempts.append(walk.failed(attempts[-1].host, error(grpc.StatusCode.UNAVAILABLE)))
    assert len({attempt.host for attempt in attempts[:3]}) == 3
    assert [attempt.wait_s for attempt in attempts[:3]] == [0.0] * 3
    assert attempts[3].wait_s > 0


def test_a_refusal_with_retry_info_waits_at_least_that_long() -> None:
    walk, _ = course()
    attempt = walk.failed(walk.begin().host, error(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", 7.0))
    assert 7.0 <= attempt.wait_s < 8.0


@pytest.mark.parametrize(
    ("code", "retry_after_s", "options", "timeout_s", "stopped_by", "attempts"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 1.0, {}, 60.0, "", 1),
        (grpc.StatusCode.UNAVAILABLE, None, {}, 60.0, "attempts", 5),
        (grpc.StatusCode.UNAVAILABLE, None, {"budget": Budget(0, 2, 0)}, 60.0, "budget", 3),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 30.0, {}, 10.0, "deadline", 1),
    ],
)
def test_a_course_ends_and_says_why(
    code: grpc.StatusCode,
    retry_after_s: float | None,
    options: dict[str, object],
    timeout_s: float,
    stopped_by: str,
    attempts: int,
) -> None:
    walk, _ = course(2, timeout_s, **options)
    attempt = walk.begin()
    with pytest.raises(AssayError) as raised:
        while True:
            attempt = walk.failed(attempt.host, error(code, retry_after_s=retry_after_s))
    assert (raised.value.stopped_by, raised.value.attempts, raised.value.request_id) == (stopped_by, attempts, "r-1")


def test_an_attempt_has_the_rest_of_the_deadline_at_most_and_none_is_sent_after_it() -> None:
    walk, _ = course(timeout_s=0.5)
    assert 0 < walk.timeout_s() <= 0.5
    walk, _ = course(timeout_s=500, attempt_timeout_s=2.0)
    assert walk.timeout_s() == 2.0
    walk, _ = course(timeout_s=0.0)
    with pytest.raises(errors.DeadlineExceeded) as raised:
        walk.timeout_s()
    assert raised.value.stopped_by == "deadline"


# --- hosts --------------------------------------------------------------------------------------------------------


def hosts(count: int, **ejection: float) -> Hosts:
    return Hosts([Host(f"h{i}", ["lane"]) for i in range(count)], Ejection(**ejection))  # type: ignore[arg-type]


def test_hosts_take_turns_and_so_do_the_connections_of_each() -> None:
    pool = hosts(3)
    assert [pool.pick(0.0) for _ in range(6)][3:] == [pool.pick(0.0) for _ in range(3)]
    assert len({pool.pick(0.0) for _ in range(3)}) == 3
    host = Host("h", ["a", "b"])
    assert [host.lane() for _ in range(4)] == ["a", "b", "a", "b"]


def test_a_host_that_has_gone_is_out_longer_each_time_and_comes_back_with_one_call() -> None:
    pool = hosts(2, base_s=1.0, out_max_s=3.0)
    first, second = pool.all
    now_s = 100.0
    for out_s in (1.0, 2.0, 3.0, 3.0):
        pool.bad(first, Trouble.GONE, now_s)
        pool.bad(first, Trouble.GONE, now_s)  # a call that was under way says it once more
        assert 0.75 * out_s <= first.out_until_s - now_s <= out_s
        assert {pool.pick(now_s) for _ in range(4)} == {second}
        now_s = first.out_until_s
        assert {pool.pick(now_s) for _ in range(4)} == {first, second}
        assert {pool.pick(now_s) for _ in range(4)} == {second}, "more than one call found out whether it is back"
    pool.good(first)
    assert {pool.pick(now_s) for _ in range(4)} == {first, second}


def test_late_answers_count_in_a_row() -> None:
    pool = hosts(2, slow_max=3)
    first, second = pool.all
    for _ in range(4):
        pool.bad(first, Trouble.SLOW, 0.0)
        pool.bad(first, Trouble.SLOW, 0.0)
        pool.good(first)
    assert {pool.pick(0.0) for _ in range(4)} == {first, second}
    for _ in range(3):
        pool.bad(first, Trouble.SLOW, 0.0)
    assert {pool.pick(0.0) for _ in range(4)} == {second}


def test_when_all_are_out_the_one_that_is_back_first_is_asked() -> None:
    pool = hosts(2, base_s=10.0)
    for now_s, host in enumerate(pool.all):
        pool.bad(host, Trouble.GONE, now_s * 20.0)
    assert pool.pick(20.0) is pool.all[0]
    assert pool.pick(20.0, tried=[pool.all[0]]) is pool.all[1]


def test_a_call_with_hardly_any_time_says_nothing_of_the_host() -> None:
    for timeout_s, out in ((0.01, 0), (5.0, 2)):
        _, shared = course(2, ejection=Ejection(slow_max=1))
        for _ in range(2):
            walk = Course(shared, "", timeout_s)
            walk.timeout_s()
            walk.noted(walk.begin().host, error(grpc.StatusCode.DEADLINE_EXCEEDED))
        assert sum(host.times_out for host in shared.hosts.all) == out


# --- hedges, options ----------------------------------------------------------------------------------------------


def test_a_hedge_goes_to_another_host_and_is_paid_for() -> None:
    walk, _ = course(2, hedge=Hedge(), budget=Budget(0, 1, 0))
    first = walk.begin().host
    assert walk.hedge_after_s == 0.05
    second = walk.hedge()
    assert second is not None and second is not first
    assert walk.hedge() is None, "there is no third host"
    spent, _ = course(2, hedge=Hedge(), budget=Budget(0, 0, 0))
    spent.begin()
    assert spent.hedge() is None
    assert course(1, hedge=Hedge())[0].hedge_after_s is None, "one host cannot be hedged"


def test_a_percentile_follows_the_answers_and_keeps_a_least() -> None:
    delay = Delay(Hedge(after_s=0.5, percentile=0.9, least_s=0.01))
    for i in range(31):
        delay.answered(i / 100)
    assert delay.after_s == 0.5
    delay.answered(0.31)
    assert delay.after_s == pytest.approx(0.27)
    for _ in range(512):
        delay.answered(0.0001)
    assert delay.after_s == 0.01


@pytest.mark.parametrize(
    "make",
    [
        lambda: Options(timeout_s=0),
        lambda: Options(connections=0),
        lambda: Options(retry=Retry(attempts_max=0)),
        lambda: Hedge(after_s=0),
        lambda: Hedge(percentile=1.0),
        lambda: Budget(ratio=-1),
        lambda: Tls(key=b"key alone"),
        lambda: addresses_of(" , "),
        lambda: addresses_of([]),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r"must|needs"):
        make()  # type: ignore[operator]


def test_addresses_come_as_a_list_or_a_text() -> None:
    assert addresses_of("a:1, b:2,a:1") == addresses_of(["a:1", "b:2"]) == ("a:1", "b:2")


def test_headers_are_the_options_and_the_tenant() -> None:
    tokens = iter(["one", "two"])
    options = Options(tenant="bank-a", metadata=lambda: [("authorization", next(tokens))])
    assert options.headers() == (("authorization", "one"), ("x-tenant", "bank-a"))
    assert options.headers()[0] == ("authorization", "two")
