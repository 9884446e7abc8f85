"""`make demo`: starts a server, fills its store, sends applications of two products, and shows what comes back."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import grpc
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from assay.decision.v1 import decision_pb2, decision_service_pb2_grpc
from assay.decision.v1 import decision_service_pb2 as pb
from demo.applicants import Applicant, Cast, gather_cast
from demo.server import ServerFailed, running_server
from demo.show import decision_panel, overview, verdict_of
from engine.bundle.load import default_bundle, load_bundle
from engine.bundle.rows import RowWriter
from engine.clock import SystemClock
from engine.features.stores.embedded import EmbeddedStore
from engine.telemetry.tracing.search import find_trace
from engine.telemetry.tracing.waterfall import waterfall

_SEED = 20
_CONSUMERS, _COMPANIES = 240, 60
_SHOWN = 14
_DAY_US = 86_400_000_000


def main() -> int:
    """Runs the demonstration. Gives the exit code."""
    # Output that is no terminal (a file, a log) has no width of its own.
    console = Console(width=None if sys.stdout.isatty() else 150)
    started = time.monotonic()
    console.rule("[bold]Assay: real loan decisions")
    with tempfile.TemporaryDirectory(prefix="assay-demo-") as name:
        directory = Path(name)
        with _progress(console) as progress:
            step = progress.add_task("gathering applicants", total=None)
            cast = gather_cast(_CONSUMERS, _COMPANIES, _SEED)
            progress.update(step, total=1, completed=1)
            _load(cast, directory, progress)
        for source in cast.sources:
            console.print(source, style="dim", highlight=False)
        try:
            with running_server(directory) as address, grpc.insecure_channel(address) as channel:
                shown = _decide(console, decision_service_pb2_grpc.DecisionServiceStub(channel), cast)
            _trace(console, directory / "var" / "traces" / "traces.jsonl", shown)
        except ServerFailed as error:
            console.print(str(error), style="red", markup=False)
            return 1
    console.print(f"The server has drained and ended. All in {time.monotonic() - started:.1f} s.", highlight=False)
    return 0


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


def _load(cast: Cast, directory: Path, progress: Progress) -> None:
    """Writes every applicant's rows into the embedded store that the server is about to read."""
    writer = RowWriter(load_bundle(default_bundle(), scenarios=False).catalogue)
    now_us = SystemClock.now_us()
    people = [*cast.consumers, *cast.companies]
    store = EmbeddedStore(directory / "features")
    try:
        task = progress.add_task("loading the feature store", total=len(people))
        for one in people:
            store.write(
                writer.row(view, entity_id, values, now_us - round(age_days * _DAY_US))
                for view, entity_id, values, age_days in one.rows
            )
            progress.advance(task)
    finally:
        store.close()


def _trace(console: Console, file: Path, decision: decision_pb2.Decision) -> None:
    """One decision's trace, from the file that the server left when it drained."""
    console.rule(f"assay trace {decision.trace_id}")
    found = find_trace(file, decision.trace_id)
    console.print(waterfall(found) if found is not None else "no trace was kept")


def _decide(console: Console, stub: decision_service_pb2_grpc.DecisionServiceStub, cast: Cast) -> decision_pb2.Decision:
    """Sends everything, and shows it. Gives a decision whose trace is worth a look."""
    flows = stub.ListFlows(pb.ListFlowsRequest())
    bundle = flows.bundle
    console.print(
        f"In service: {bundle.name} {bundle.version}, {bundle.digest[:19]}..., "
        f"flows {', '.join(flow.name for flow in flows.flows)}",
        highlight=False,
    )
    answers: dict[str, decision_pb2.Decision] = {}
    with _progress(console) as progress:
        task = progress.add_task("deciding, one call each", total=len(cast.consumers) + len(cast.companies))
        for one in (*cast.consumers, *cast.companies):
            answers[one.name] = stub.Decide(one.request, timeout=10).decision
            progress.advance(task)
    for title, group in (("Consumer loans", cast.consumers), ("Small-business loans", cast.companies)):
        console.rule(title)
        overview(console, [(one.name, one.asked, answers[one.name]) for one in group[:_SHOWN]])
        _totals(console, [answers[one.name] for one in group])
    console.rule("Some decisions in full")
    for one in _chosen(cast, answers):
        title = f"{one.name} ({one.note})" if one.note else one.name
        console.print(decision_panel(title, one.asked, answers[one.name]))
    _in_chinese(console, stub, cast, answers)
    _asked_again(console, stub, cast.consumers[0])
    _in_a_batch(console, stub, cast)
    _bad_input(console, stub, cast.consumers[0])
    return answers[_chosen(cast, answers)[0].name]


def _totals(console: Console, decisions: Sequence[decision_pb2.Decision]) -> None:
    counts: dict[str, int] = {}
    for decision in decisions:
        name = decision_pb2.Verdict.Name(decision.verdict).removeprefix("VERDICT_")
        counts[name] = counts.get(name, 0) + 1
    shown = ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
    console.print(f"of {len(decisions)}: {shown}", style="dim", highlight=False)


def _chosen(cast: Cast, answers: dict[str, decision_pb2.Decision]) -> list[Applicant]:
    """One consumer of each verdict, one with something missing, and a company that is not declined."""
    chosen: list[Applicant] = []
    for verdict in (decision_pb2.VERDICT_APPROVE, decision_pb2.VERDICT_COUNTER_OFFER, decision_pb2.VERDICT_DECLINE):
        chosen += [one for one in cast.consumers if answers[one.name].verdict == verdict][:1]
    stale = decision_pb2.FEATURE_STATUS_STALE
    chosen += [c for c in cast.consumers if any(s.status == stale for s in answers[c.name].substitutions)][:1]
    approved = (decision_pb2.VERDICT_APPROVE, decision_pb2.VERDICT_COUNTER_OFFER)
    chosen += [one for one in cast.companies if answers[one.name].verdict in approved][:1]
    return chosen


def _in_chinese(
    console: Console,
    stub: decision_service_pb2_grpc.DecisionServiceStub,
    cast: Cast,
    answers: dict[str, decision_pb2.Decision],
) -> None:
    """The same applicant asks again, and wants the answer in Chinese."""
    one = next((c for c in cast.consumers if answers[c.name].verdict == decision_pb2.VERDICT_DECLINE), None)
    if one is None:
        return
    request = pb.DecideRequest()
    request.CopyFrom(one.request)
    request.request_id, request.language = f"{one.request.request_id}-zh", "zh"
    console.print(decision_panel(f"{one.name}, in Chinese", one.asked, stub.Decide(request, timeout=10).decision))


def _asked_again(console: Console, stub: decision_service_pb2_grpc.DecisionServiceStub, applicant: Applicant) -> None:
    again = stub.Decide(applicant.request, timeout=10).decision
    found = stub.GetDecision(pb.GetDecisionRequest(decision_id=again.decision_id, view=pb.DECISION_VIEW_FULL)).record
    console.rule("The same request once more")
    console.print(
        f"the stored decision {again.decision_id} comes back (replayed: {again.replayed}):", verdict_of(again), end=""
    )
    console.print(
        f"; its record holds {len(found.facts)} facts, {len(found.runs)} model runs, {len(found.rules)} rules "
        f"and {len(found.all_reasons)} reasons",
        highlight=False,
    )


def _in_a_batch(console: Console, stub: decision_service_pb2_grpc.DecisionServiceStub, cast: Cast) -> None:
    requests = []
    for one in (*cast.consumers, *cast.companies)[:256]:
        request = pb.DecideRequest()
        request.CopyFrom(one.request)
        request.request_id += "-batch"
        requests.append(request)
    begun = time.perf_counter()
    items = stub.DecideBatch(pb.DecideBatchRequest(requests=requests), timeout=60).items
    took_s = time.perf_counter() - begun
    decided = sum(item.WhichOneof("outcome") == "decision" for item in items)
    console.rule("The first 256 applicants again, in one batch")
    console.print(f"{decided} of {len(items)} decided in {took_s * 1e3:.0f} ms", highlight=False)


def _bad_input(console: Console, stub: decision_service_pb2_grpc.DecisionServiceStub, applicant: Applicant) -> None:
    request = pb.DecideRequest()
    request.CopyFrom(applicant.request)
    request.request_id = ""
    request.application.amount.units = -5
    request.application.fields["stated_monthly_income"].number = float("nan")
    request.application.fields["favourite_colour"].text = "blue"
    console.rule("A request with four mistakes")
    try:
        stub.Decide(request, timeout=10)
    except grpc.RpcError as error:
        assert isinstance(error, grpc.Call)
        console.print(error.code().name, style="bold red")
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                _violations(console, Status.FromString(value))


def _violations(console: Console, status: Status) -> None:
    bad = BadRequest()
    for detail in status.details:
        if detail.Unpack(bad):
            for violation in bad.field_violations:
                console.print(f"  {violation.field} {violation.description}", markup=False, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
