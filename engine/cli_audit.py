"""`assay audit`: hold the journal against its chains, and show one record."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli_stores import settings_of
from engine.console import ConfigOption, err, fail, say
from engine.errors import ConfigError, RecordError

if TYPE_CHECKING:
    from engine.record.master import MasterKey
    from engine.record.verify import WorkerReport

audit_app = typer.Typer(
    name="audit",
    help="Verify the journal of decisions, and show a record.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
JournalOption = Annotated[
    Path | None, typer.Option("--journal", help="The journal's directory. Absent: the one that the settings name.")
]
KeyOption = Annotated[
    Path | None,
    typer.Option("--master-key", help="The file of the master key. Absent: the one that the settings name, if any."),
]


@audit_app.command()
def verify(
    journal: JournalOption = None,
    master_key: KeyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    processes: Annotated[int, typer.Option("--processes", min=0, help="How many read at once. 0: one a core.")] = 0,
    config: ConfigOption = None,
) -> None:
    """Say what was altered, removed, put in or moved in the journal. Nothing is changed; it may be written meanwhile.

    Ends with 1 when anything was found.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from engine.record.verify import verify as run

    directory, master = _sources(journal, master_key, config)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    try:
        with Progress(*columns, console=err, transient=True, disable=as_json or not err.is_terminal) as progress:
            task = progress.add_task("reading the journal", total=None)
            reports = run(
                directory,
                None if master is None else master.heads,
                processes=processes,
                on_progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
    except RecordError as error:
        fail(f"The journal cannot be verified: {error}")
    is_whole = all(report.is_whole for report in reports)
    if as_json:
        content = {"is_whole": is_whole, "signatures_checked": master is not None, "workers": []}
        content["workers"] = [{**asdict(report), "is_whole": report.is_whole} for report in reports]
        print(json.dumps(content, indent=2))
    else:
        _tell(reports, is_whole, master is not None)
    if not is_whole:
        raise typer.Exit(1)


def _tell(reports: list[WorkerReport], is_whole: bool, has_key: bool) -> None:
    for report in reports:
        first = f"records {report.first:,} to {report.last:,}" if report.last else "no chained record"
        say(
            f"{report.worker}: {report.segments:,} segments, {report.frames:,} frames, {report.decisions:,} decisions, "
            f"{first}, {report.heads:,} heads{', signed' if report.signed else ''}"
        )
        if report.unchained:
            say(f"  {report.unchained:,} frames of an earlier layout are not linked: only damage is found in them")
        for finding in report.findings:
            where = f"{finding.segment}:{finding.offset}"
            record = f" record {finding.sequence:,}" if finding.sequence else ""
            decision = f" decision {finding.decision_id}" if finding.decision_id else ""
            kind = f"note, {finding.what}" if finding.is_note else finding.what
            say(f"  {where}{record}{decision}: {kind}: {finding.message}")
        if report.dropped:
            say(f"  {report.dropped:,} more findings are not listed")
    if not has_key:
        say("Signatures were not checked: no master key was given.")
    if not reports:
        say("There is no journal here.")
    elif is_whole:
        say("The journal is whole.")
    else:
        say("The journal is not as it was written.")


@audit_app.command()
def show(
    decision_id: Annotated[str, typer.Argument(help="The decision's id.")],
    journal: JournalOption = None,
    master_key: KeyOption = None,
    config: ConfigOption = None,
) -> None:
    """Print one record as JSON, and whether its personal part was erased. Reads the whole journal if it must."""
    from google.protobuf.json_format import MessageToDict

    from engine.record.read import parse_record, unpack
    from engine.record.reader import JournalReader
    from engine.record.subject_keys import SubjectKeys

    directory, master = _sources(journal, master_key, config)
    try:
        keys = None if master is None else SubjectKeys(directory, master)
        reader = JournalReader(directory, keys)
        stored = reader.find(decision_id)
        if stored is None:
            fail(f"No decision {decision_id} is in the journal {directory}")
        record = parse_record(stored.record)
        if record.packed_facts.statuses:
            unpack(record, reader.catalogue(record.packed_facts.catalogue_digest), {})
    except RecordError as error:
        fail(f"The record cannot be read: {error}")
    state = "erased" if stored.erased else "locked" if stored.locked else "readable"
    content: dict[str, Any] = {
        "position": {"segment": stored.position.segment, "offset": stored.position.offset},
        "personal_part": state,
        "record": MessageToDict(record, preserving_proto_field_name=True),
    }
    print(json.dumps(content, indent=2, ensure_ascii=False))


def _sources(journal: Path | None, master_key: Path | None, config: Path | None) -> tuple[Path, MasterKey | None]:
    """The journal's directory and the master key, if there is one. Ends the command when they cannot be used."""
    from engine.record.master import MasterKey

    if journal is None or master_key is None:
        record = settings_of(config).record
        journal = journal or record.path
        master_key = master_key or (record.master_key if record.master_key.exists() else None)
    if not journal.is_dir():
        fail(f"There is no journal at {journal}")
    try:
        return journal, None if master_key is None else MasterKey.read(master_key)
    except ConfigError as error:
        fail("The master key cannot be used", error.problems)
