"""The settings `ship.*`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from engine.config_stores import Section

if TYPE_CHECKING:
    from engine.features.stores.cassandra_settings import CassandraSettings
    from engine.record.master import MasterKey
    from engine.shipping.drop import Hold
    from engine.shipping.records import CassandraRecords
    from engine.shipping.settings import ShipSettings
    from engine.shipping.shipper import Shipper

_MS = 1000.0


class ShipConfig(Section):
    """Shipping the journal to Cassandra, which section cassandra says how to reach."""

    mode: Literal["off", "thread", "process"] = Field(
        "off",
        description="process: the server runs `assay record ship` beside itself; thread: ships in its own process; off:"
        " nothing is shipped, or by `assay record ship` run elsewhere.",
    )
    consistency: Literal["LOCAL_ONE", "ONE", "LOCAL_QUORUM", "QUORUM", "ALL"] = Field(
        "LOCAL_QUORUM", description="How many replicas must have a record before it counts as shipped."
    )
    drop: bool = Field(True, description="Whether segments are let go once they are shipped.")
    keep_local_h: float = Field(
        24.0, ge=0, le=24 * 3650, description="How long a segment stays all the same, from its last record on."
    )
    batch_rows: int = Field(400, ge=1, le=10_000, description="The most records on their way at once.")
    batch_bytes: int = Field(
        4 * 1024**2, ge=4096, le=256 * 1024**2, description="The most bytes of them; one record may be more."
    )
    in_flight: int = Field(64, ge=1, le=2048, description="Statements without an answer at once.")
    write_timeout_ms: float = Field(10_000.0, gt=0, le=600_000, description="The most that a part of a batch may take.")
    read_timeout_ms: float = Field(
        2000.0, gt=0, le=600_000, description="The most that looking a shipped decision up may take."
    )
    retry_max_s: float = Field(
        30.0, ge=1, le=3600, description="The longest wait after a failure; the first is a quarter of a second."
    )
    share: float = Field(
        1.0, gt=0, le=1, description="The part of its time that the shipper works while there is much to ship."
    )


def ship_settings(ship: ShipConfig, retain_days: Mapping[str, int]) -> ShipSettings:
    """How the shipper works. retain_days: by country, "" for those not named, 0 for ever. Raises ValueError."""
    from engine.shipping.settings import Retention, ShipSettings

    countries = {country: days for country, days in retain_days.items() if country}
    return ShipSettings(
        batch_rows=ship.batch_rows,
        batch_bytes=ship.batch_bytes,
        in_flight=ship.in_flight,
        write_timeout_s=ship.write_timeout_ms / _MS,
        retry_max_s=ship.retry_max_s,
        share=ship.share,
        keep_local_s=ship.keep_local_h * 3600,
        drop=ship.drop,
        retention=Retention(retain_days.get("", 0), countries),
    )


def open_shipper(
    journal: Path,
    cassandra: CassandraSettings,
    ship: ShipConfig,
    retain_days: Mapping[str, int],
    master: MasterKey | None,
    holds: tuple[Hold, ...] = (),
) -> Shipper:
    """A shipper, not started. Raises StoreError for certificates that cannot be read, ValueError for settings that make
    no sense together."""
    from engine.record.subject_keys import DIRECTORY, SUFFIX
    from engine.shipping.shipper import Shipper
    from engine.shipping.subjects import JournalSubjects

    if master is None and any((journal / DIRECTORY).glob("*" + SUFFIX)):
        # Its keys would be left behind, and then what was shipped never opens.
        raise ValueError(f"{journal} holds sealed records, and no master key is named")
    return Shipper(
        journal,
        _at_level(cassandra, ship),
        ship_settings(ship, retain_days),
        subjects=None if master is None else JournalSubjects(journal, master),
        holds=holds,
        head_key=None if master is None else master.heads,
    )


def open_records(
    journal: Path, cassandra: CassandraSettings, ship: ShipConfig, master: MasterKey | None
) -> CassandraRecords:
    """A reader of what was shipped, which connects when it is first asked. Raises StoreError, RecordError,
    ValueError."""
    from engine.record.subject_keys import SubjectKeys
    from engine.shipping.records import CassandraRecords
    from engine.shipping.subjects import KeyOpener

    opener = None if master is None else KeyOpener(master, SubjectKeys(journal, master))
    timeout_s = ship.read_timeout_ms / _MS
    return CassandraRecords(_at_level(cassandra, ship), opener, read_timeout_s=timeout_s, lazy=True)


def _at_level(cassandra: CassandraSettings, ship: ShipConfig) -> CassandraSettings:
    return replace(cassandra, consistency=ship.consistency)
