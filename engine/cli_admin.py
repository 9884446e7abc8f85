"""`assay admin`: look at what a running server serves, and change it."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli_admin_text import print_json, table, tell_change, tell_traffic, time, word
from engine.console import fail, say
from engine.errors import Problem

if TYPE_CHECKING:
    from assay.admin.v1 import admin_service_pb2 as pb
    from engine.rpc.admin_client import AdminClient

admin_app = typer.Typer(
    name="admin",
    help="Look at what a running server serves, and change it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

AddressOption = Annotated[
    str, typer.Option("--address", envvar="ASSAY_ADMIN_ADDRESS", help="The server's address for changes.")
]
CaOption = Annotated[Path | None, typer.Option("--ca", help="PEM file of the CA of the server's certificate.")]
CertificateOption = Annotated[Path | None, typer.Option("--certificate", help="PEM file of your certificate.")]
KeyOption = Annotated[Path | None, typer.Option("--key", help="PEM file of your private key.")]
WhoOption = Annotated[str, typer.Option("--who", help="Who makes the change. Absent: your name on this machine.")]
WhyOption = Annotated[str, typer.Option("--why", help="Why, for who reads it in a year.")]
ExpectOption = Annotated[
    int | None, typer.Option("--expect", metavar="GENERATION", help="Refuse when another generation is served by now.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_ADDRESS = "127.0.0.1:50052"


@admin_app.command()
def bundles(
    as_json: JsonOption = False,
    address: AddressOption = _ADDRESS,
    ca: CaOption = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
) -> None:
    """List the bundles that the server holds."""
    with _client(address, ca, certificate, key) as client:
        answer = client.bundles()
    if as_json:
        print_json(answer)
        return
    rows = [
        [one.digest[7:19], one.name, one.version, time(one.loaded_at), ", ".join(one.roles) or "-"]
        for one in answer.bundles
    ]
    table(["digest", "name", "version", "loaded", "roles"], rows)


@admin_app.command()
def load(
    path: Annotated[str, typer.Argument(metavar="DIR", help="The bundle's directory on this machine, which is sent.")],
    why: WhyOption,
    who: WhoOption = "",
    on_server: Annotated[bool, typer.Option("--on-server", help="DIR is on the server's machine.")] = False,
    expect: ExpectOption = None,
    as_json: JsonOption = False,
    address: AddressOption = _ADDRESS,
    ca: CaOption = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
) -> None:
    """Check a bundle on the server and keep it there. Nothing that is served changes."""
    author = _author(who, why, expect)
    if not on_server and not Path(path).is_dir():
        problem = Problem("command line", "DIR", f"{path!r} is no directory here", "Name one, or add --on-server.")
        fail("There is no bundle", [problem])
    with _client(address, ca, certificate, key) as client:
        answer = client.load(author, path) if on_server else client.upload(author, Path(path))
    if as_json:
        print_json(answer)
        return
    one = answer.bundle
    say(f"{one.name} {one.version} {'was' if answer.known else 'is'} loaded; {answer.scenarios} scenarios agree")
    say(one.digest)
    for note in answer.notes:
        say(f"  note: {note}")


@admin_app.command()
def activate(
    digest: Annotated[str, typer.Argument(help="The bundle's digest, or its first 8 hexadecimal digits or more.")],
    why: WhyOption,
    who: WhoOption = "",
    end_experiments: Annotated[
        bool | None,
        typer.Option("--end-experiments/--keep-experiments", help="What becomes of experiments that are running."),
    ] = None,
    expect: ExpectOption = None,
    as_json: JsonOption = False,
    address: AddressOption = _ADDRESS,
    ca: CaOption = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
) -> None:
    """Put a loaded bundle in service."""
    from assay.admin.v1 import admin_service_pb2 as pb

    running = pb.RUNNING_EXPERIMENTS_UNSPECIFIED
    if end_experiments is not None:
        running = pb.RUNNING_EXPERIMENTS_END if end_experiments else pb.RUNNING_EXPERIMENTS_KEEP
    request = pb.ActivateRequest(author=_author(who, why, expect), digest=digest, running_experiments=running)
    with _client(address, ca, certificate, key) as client:
        tell_change(client.activate(request), as_json)


@admin_app.command()
def rollback(
    why: WhyOption,
    who: WhoOption = "",
    expect: ExpectOption = None,
    as_json: JsonOption = False,
    address: AddressOption = _ADDRESS,
    ca: CaOption = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
) -> None:
    """Put the previous bundle in service again, for everybody: experiments end."""
    with _client(address, ca, certificate, key) as client:
        tell_change(client.rollback(_author(who, why, expect)), as_json)


@admin_app.command()
def traffic(
    set_file: Annotated[
        Path | None,
        typer.Option("--set", metavar="FILE", help="Set flows from a YAML or JSON file; docs/safe-change.md has one."),
    ] = None,
    why: Annotated[str, typer.Option("--why", help="With --set: why.")] = "",
    who: WhoOption = "",
    expect: ExpectOption = None,
    as_json: JsonOption = False,
    address: AddressOption = _ADDRESS,
    ca: CaOption = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
) -> None:
    """Show what is served, or set experiments, shadows and cut-outs."""
    if set_file is not None:
        request = _flows_in(set_file)
        request.author.CopyFrom(_author(who, why, expect))
        with _client(address, ca, certificate, key) as client:
            tell_change(client.set_traffic(request), as_json)
        return
    with _client(address, ca, certificate, key) as client:
        answer = client.traffic()
    if as_json:
        print_json(answer)
        return
    tell_traffic(answer.traffic)
    for worker in answer.workers:
        say(f"worker {worker.worker}: generation {worker.generation}{'; ' if worker.trouble else ''}{worker.trouble}")
        for state in worker.cut_outs:
            rates = ", ".join(f"{verdict} {rate:.1%}" for verdict, rate in sorted(state.rates.items()))
            level = word(state, "level")
            say(f"  cut-out {state.flow}: {level}, {state.decisions} decisions {rates} {state.facts}".rstrip())


@admin_app.command()
def shadows(
    flow: Annotated[str, typer.Option("--flow", help="Only this flow.")] = "",
    as_json: JsonOption = False,
    address: AddressOption = _ADDRESS,
    ca: CaOption = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
) -> None:
    """Show what shadows would have decided, against what was answered."""
    with _client(address, ca, certificate, key) as client:
        answer = client.shadows(flow)
    if as_json:
        print_json(answer)
        return
    for one in answer.comparisons:
        say(f"{one.flow}: shadow {one.shadow} ({one.shadow_bundle[7:19]}) against {one.bundle[7:19]}")
        say(f"  decided {one.decided}, would refuse {one.refused}, failed {one.failed}, not recorded {one.unrecorded}")
        say(f"  other reasons {one.reasons_differ}, other offers {one.offers_differ}, by name {one.carried_by_name}")
        for pair in one.verdicts:
            say(f"  {word(pair, 'answered'):>14} -> {word(pair, 'shadow'):<14} {pair.count}")
        for score in one.scores:
            say(
                f"  {word(score, 'component')}: probability {score.mean_probability:+.4f} (at most "
                f"{score.max_absolute_probability:.4f}), points {score.mean_points:+.1f} (at most "
                f"{score.max_absolute_points:.0f})"
            )
    say(f"dropped: {answer.dropped}")


@admin_app.command()
def changes(
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many.")] = 20,
    as_json: JsonOption = False,
    address: AddressOption = _ADDRESS,
    ca: CaOption = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
) -> None:
    """List the changes made on the server's host, the latest first."""
    with _client(address, ca, certificate, key) as client:
        answer = client.changes(limit)
    if as_json:
        print_json(answer)
        return
    rows = []
    for one in answer.changes:
        bundle = one.after.default_bundle if one.HasField("after") else one.bundle.digest
        who = f"{one.who} for {one.on_behalf_of}" if one.on_behalf_of else one.who
        generation = str(one.after.generation) if one.HasField("after") else "-"
        rows.append([time(one.changed_at), generation, word(one, "kind"), bundle[7:19], who, one.why])
    table(["when", "generation", "change", "bundle", "who", "why"], rows)


# --- what they share ----------------------------------------------------------------------------------------------


@contextmanager
def _client(address: str, ca: Path | None, certificate: Path | None, key: Path | None) -> Iterator[AdminClient]:
    """A connection. What the server refuses ends the command, and is told."""
    from engine.rpc.admin_client import AdminClient, AdminError, Tls

    if ca is None and (certificate is not None or key is not None):
        problem = Problem("command line", "--ca", "is missing", "Name the CA of the server's certificate.")
        fail("There is no connection", [problem])
    try:
        client = AdminClient(address, None if ca is None else Tls(ca, certificate, key))
        try:
            yield client
        finally:
            client.close()
    except AdminError as error:
        fail(str(error), error.problems)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")


def _author(who: str, why: str, expect: int | None) -> pb.Author:
    from assay.admin.v1 import admin_service_pb2 as pb

    if not who:
        try:
            who = getpass.getuser()
        except (OSError, KeyError):
            fail("Nobody is known to make the change", [Problem("command line", "--who", "is missing", "Say it.")])
    return pb.Author(who=who, why=why, expected_generation=expect)


def _flows_in(file: Path) -> pb.SetTrafficRequest:
    """A file's flows: SetTrafficRequest in proto3 JSON, written as YAML or JSON."""
    import yaml
    from google.protobuf.json_format import ParseDict, ParseError

    from assay.admin.v1 import admin_service_pb2 as pb

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ParseError("it holds no `flows`")
        return ParseDict(content, pb.SetTrafficRequest())
    except OSError as error:
        fail("The file cannot be read", [Problem(str(file), "", f"{error.strerror}", "Name a file that can be.")])
    except (yaml.YAMLError, UnicodeDecodeError, ParseError) as error:
        problem = Problem(str(file), "", str(error), "docs/safe-change.md has an example.")
        fail("The file says nothing to set", [problem])
