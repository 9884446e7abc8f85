"""`assay outcomes` and `assay dataset`: what decisions came to, and rows to train on."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from engine.cli_outcomes_input import (
    AsOfOption,
    CassandraOption,
    CoverageOption,
    DaysOption,
    FlowOption,
    FraudHorizonOption,
    FromOption,
    HorizonOption,
    JournalOption,
    KeyOption,
    SilenceOption,
    SinceOption,
    UntilOption,
    as_of_moment,
    definition,
    failing,
    month,
    one_of,
    portfolio,
    wanted,
)  # fmt: skip
from engine.cli_stores import settings_of
from engine.console import ConfigOption, err, fail, out, say
from engine.errors import AssayError, Problem

if TYPE_CHECKING:
    from engine.outcomes.book import OutcomeBook
    from engine.outcomes.rows import Tally

outcomes_app = typer.Typer(help="What decisions came to.", no_args_is_help=True, pretty_exceptions_enable=False)
dataset_app = typer.Typer(help="Rows to train on.", no_args_is_help=True, pretty_exceptions_enable=False)
_REJECTED = 2


@outcomes_app.command()
def report(
    journal: JournalOption = None,
    from_: FromOption = None,
    cassandra: CassandraOption = False,
    key: KeyOption = None,
    as_of: AsOfOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    flow: FlowOption = None,
    days_past_due: DaysOption = 90,
    horizon_months: HorizonOption = 12,
    coverage_months: CoverageOption = 3,
    silence: SilenceOption = "unobserved",
    fraud_horizon_months: FraudHorizonOption = 6,
    psi_base: Annotated[
        str | None, typer.Option("--psi-base", metavar="YYYY-MM", help="The month that stability is held against.")
    ] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the report as JSON.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write the report as a page.")] = None,
    config: ConfigOption = None,
) -> None:
    """Tell how models, arms and people did, by what is known of their decisions at a moment."""
    from engine.outcomes.figures import as_json
    from engine.outcomes.report import make_report
    from engine.outcomes.rows import Tally, make_row, parsed
    from engine.outcomes.show_html import as_html
    from engine.outcomes.show_text import show

    terms = definition(days_past_due, horizon_months, coverage_months, silence, fraud_horizon_months)
    as_of_us, as_of_text = as_of_moment(as_of)
    base, which = month(psi_base), wanted(since, until, flow)
    with failing("The report cannot be made"), portfolio(config, journal, from_, cassandra, key, which) as found:
        tally = Tally()
        rows = [
            make_row(record, found.book, terms, as_of_us) for _, record in parsed(found.items(), which, as_of_us, tally)
        ]
        rows += [
            make_row(record, found.book, terms, as_of_us)
            for _, record in parsed(found.shadows(), which, as_of_us, Tally())
        ]
        made = make_report(rows, terms, as_of_us, as_of_text, base)
        made.sources = found.names
        made.left_out = _left_out(tally, found.book) | {"damaged stretches of journals": found.damaged()}
        show(made, out)
        if json_ is not None:
            json_.write_text(as_json(made) + "\n", encoding="utf-8")
        if html is not None:
            html.write_text(as_html(made), encoding="utf-8")
    if not rows:
        fail("There is nothing to report", [Problem("command line", "", "no decision was met", "Check the options.")])


@dataset_app.callback()
def _dataset() -> None:
    """Rows to train on."""


@dataset_app.command("export")
def export_(
    file: Annotated[Path, typer.Argument(metavar="FILE.parquet", help="The file to write.")],
    journal: JournalOption = None,
    from_: FromOption = None,
    cassandra: CassandraOption = False,
    key: KeyOption = None,
    as_of: AsOfOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    flow: FlowOption = None,
    days_past_due: DaysOption = 90,
    horizon_months: HorizonOption = 12,
    coverage_months: CoverageOption = 3,
    silence: SilenceOption = "unobserved",
    fraud_horizon_months: FraudHorizonOption = 6,
    keep: Annotated[
        str, typer.Option("--keep", help="labelled: good or bad; mature: also those without a label; all.")
    ] = "labelled",
    target: Annotated[str, typer.Option("--target", help="Whose label --keep goes by: credit or fraud.")] = "credit",
    parts: Annotated[
        str, typer.Option("--parts", help="What of each feature: used, read, status, age, origin.")
    ] = "used,status,age",
    config: ConfigOption = None,
) -> None:
    """Write one row a decision: features as they were then, the label as it is known at a moment."""
    from engine.outcomes.dataset import Keep, Question, Target, export
    from engine.outcomes.dataset_features import PARTS

    terms = definition(days_past_due, horizon_months, coverage_months, silence, fraud_horizon_months)
    one_of("--keep", keep, ("labelled", "mature", "all"))
    one_of("--target", target, ("credit", "fraud"))
    named = tuple(part.strip() for part in parts.split(",") if part.strip())
    for part in named:
        one_of("--parts", part, PARTS)
    which = wanted(since, until, flow)
    question = Question(*as_of_moment(as_of), terms, cast(Keep, keep), cast(Target, target), named, which)
    with failing("The data set cannot be written"), portfolio(config, journal, from_, cassandra, key, which) as found:
        with err.status("reading") as shown:
            written = export(found.items, found.book, question, file, lambda count: _tell(shown.update, count))
        say(f"{file}: {written.rows:,} rows, {written.columns:,} columns, labels as known at {question.as_of}")
        say(f"  bad: {terms}")
        for state, count in sorted(written.states.items()):
            say(f"  {count:>12,}  {state}")
        left_out = _left_out(written.tally, found.book) | {
            "decisions about persons that were erased": written.erased,
            "decisions whose facts are sealed, and no key was given": written.sealed,
            "damaged stretches of journals": found.damaged(),
        }
        for what, count in left_out.items():
            if count:
                say(f"  left out: {count:,} {what}")


@outcomes_app.command()
def load(
    file: Annotated[Path, typer.Argument(help="A .jsonl, .csv or .parquet file.")],
    address: Annotated[str | None, typer.Option("--address", help="The server. Absent: as the settings say.")] = None,
    source: Annotated[str, typer.Option("--source", help="The source of rows that name none.")] = "",
    allow_unknown: Annotated[
        bool, typer.Option("--allow-unknown", help="Record outcomes whose decision is not known there.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every row here, and send none.")] = False,
    rejects: Annotated[Path | None, typer.Option("--rejects", help="A CSV file to list rejected rows in.")] = None,
    ca: Annotated[
        Path | None, typer.Option("--ca", help="PEM of the CA of the server's certificate: uses TLS.")
    ] = None,
    certificate: Annotated[Path | None, typer.Option("--certificate", help="PEM of your own certificate.")] = None,
    key: Annotated[Path | None, typer.Option("--key", help="PEM of your own key.")] = None,
    config: ConfigOption = None,
) -> None:
    """Send a file of outcomes to a server. Safe to repeat. Ends with 2 when rows were rejected."""
    from engine.clock import SystemClock
    from engine.outcomes.check import check_outcome
    from engine.outcomes.files import read_file
    from engine.rpc.outcome_client import Sent, Tls, send

    refused: list[tuple[int, str]] = []
    rows = 0

    def good() -> Iterator[tuple[int, object]]:
        nonlocal rows
        for row in read_file(file, source):
            rows += 1
            if row.outcome is None:
                refused.append((row.number, row.fault))
                continue
            bad = check_outcome(row.outcome, SystemClock.now_us()) if dry_run else []
            if bad:
                refused.append((row.number, "; ".join(f"{one.field} {one.description}" for one in bad)))
            else:
                yield row.number, row.outcome

    sent: Sent = Sent()
    with failing("The file cannot be loaded"):
        if dry_run:
            sent.recorded = sum(1 for _ in good())
        else:
            tls = None if ca is None else Tls(ca, certificate, key)
            server = address or settings_of(config).server.address
            try:
                with err.status("sending") as shown:
                    for sent in send(server, good(), allow_unknown=allow_unknown, tls=tls):  # type: ignore[arg-type]
                        _tell(shown.update, sent.acknowledged)
            except AssayError:
                say(f"{sent.acknowledged:,} rows are settled; run the same command again to go on")
                raise
        refused += sent.rejected
        refused.sort()
        if rejects is not None:
            with rejects.open("w", encoding="utf-8", newline="") as listing:
                csv.writer(listing).writerows([("row", "fault"), *refused])
    verb = "would be sent" if dry_run else "recorded"
    say(f"{rows:,} rows: {sent.recorded:,} {verb}, {sent.already:,} recorded before, {len(refused):,} rejected")
    for number, fault in refused[:10]:
        say(f"  row {number}: {fault}")
    if refused:
        raise typer.Exit(_REJECTED)


def _tell(update: Callable[[str], object], count: int) -> None:
    if count % 1000 == 0:
        update(f"{count:,}")


def _left_out(tally: Tally, book: OutcomeBook) -> dict[str, int]:
    return {
        "decisions made after that moment": tally.later,
        "decisions that were not asked for": tally.unwanted,
        "decisions that cannot be read": tally.unreadable,
        "outcomes that cannot be read": book.unreadable,
        "outcomes that belong to none of these decisions": book.unjoined,
    }
