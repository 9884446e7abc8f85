"""`assay record`: ship the journal to Cassandra, and say how far it is."""

from __future__ import annotations

import json
import signal
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli_stores import settings_of
from engine.console import ConfigOption, fail, say, warn
from engine.errors import AssayError, ConfigError

if TYPE_CHECKING:
    from engine.config import Config
    from engine.record.master import MasterKey
    from engine.shipping.shipper import Shipper
    from engine.shipping.state import ShipperStatus

record_app = typer.Typer(
    name="record",
    help="Ship the journal of decisions to Cassandra.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@record_app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """Say what is still to be shipped, and what the shipper last said. Cassandra is not asked.

    Ends with 1 while shipping fails.
    """
    from engine.shipping.shipper import with_waiting
    from engine.shipping.state import ShipperStatus, ShippingState

    journal = settings_of(config).record.path
    if not journal.is_dir():
        fail(f"There is no journal at {journal}")
    state = ShippingState(journal)
    found = with_waiting(journal, state, state.status() or ShipperStatus())
    if as_json:
        print(json.dumps(asdict(found), indent=2))
    else:
        _tell(found)
    if found.failing_since is not None:
        raise typer.Exit(1)


@record_app.command()
def ship(
    once: Annotated[bool, typer.Option("--once", help="Ship what is there now, and end.")] = False,
    with_parent: Annotated[
        bool, typer.Option("--with-parent", help="End when standard input does: for who starts this command.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Ship the journal to Cassandra until the command is ended, and let segments go that are through.

    Of several that are run for one directory, one ships and the others stand by.
    """
    settings = settings_of(config)
    shipper = _shipper(settings)
    try:
        if once:
            try:
                _tell(shipper.ship_once())
            except AssayError as error:
                fail(f"Not all was shipped: {error}")
            return
        ended = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())
        if with_parent:
            from engine.shipping.process import end_with_parent

            end_with_parent(ended.set)
        shipper.start()
        ended.wait()
    finally:
        shipper.stop()


def _shipper(settings: Config) -> Shipper:
    """A shipper for the journal that the settings name. Ends the command when they cannot be used."""
    from engine.bootstrap_stores import cassandra_settings
    from engine.shipping.config import open_shipper
    from engine.shipping.drop import velocity_hold
    from engine.telemetry.logs import configure_logs

    configure_logs(settings.log.level, settings.log.levels)
    holds = (velocity_hold(settings.record.path),) if settings.velocity.enabled else ()
    try:
        return open_shipper(
            settings.record.path,
            cassandra_settings(settings.cassandra),
            settings.ship,
            settings.record.retention(),
            _master(settings),
            holds,
        )
    except ConfigError as error:
        fail("The settings cannot be used", error.problems)
    except (AssayError, ValueError) as error:
        fail(f"The journal cannot be shipped: {error}")


def _master(settings: Config) -> MasterKey | None:
    """The master key that the settings name, once there is one. Raises ConfigError."""
    from engine.record.master import MasterKey

    path = settings.record.master_key
    return MasterKey.read(path) if path.exists() else None


def _tell(found: ShipperStatus) -> None:
    say(
        f"shipped {found.shipped_decisions:,} decisions in {found.shipped_frames:,} records "
        f"({found.shipped_bytes:,} bytes) since the shipper started"
    )
    if found.waiting_segments:
        say(
            f"waiting: {found.waiting_bytes:,} bytes in {found.waiting_segments:,} segments, "
            f"the oldest for {found.oldest_waiting_s:,.0f} s"
        )
    else:
        say("nothing waits")
    for count, what in (
        (found.dropped_segments, "segments were let go"),
        (found.expired, "records were past their retention and not shipped"),
        (found.damage, "damaged stretches were shipped as they are: run `assay audit verify`"),
    ):
        if count:
            say(f"{count:,} {what}")
    if found.failing_since is not None:
        warn(f"shipping fails: {found.last_error}", "bold red")
