"""Settings of the journal and of what is done with request ids."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from engine.config_stores import Section, split_pairs

Days = Annotated[int, Field(ge=0, le=36_500)]


class RecordConfig(Section):
    """The journal of decisions."""

    path: Path = Field(Path("var/decisions"), description="The journal's directory.")
    worker: str = Field(
        "w0",
        pattern=r"^[a-z][a-z0-9_]{0,31}$",
        description="The name that this process writes under. Several servers of a host may share the directory, each "
        "under a name of its own.",
    )
    durability: Literal["process", "disk"] = Field(
        "process", description="process: survives kill -9; disk: survives power loss (fsync before each answer)."
    )
    segment_bytes: int = Field(64 * 1024**2, ge=65_536, description="A segment is closed beyond this size.")
    bytes_max: int = Field(
        0,
        ge=0,
        description="What the directory may hold; beyond it nothing is decided until there is room. 0: no bound.",
    )
    on_failure: Literal["refuse", "answer"] = Field(
        "refuse", description="refuse: no answer without a record; answer: answer, and say so in record_state."
    )
    master_key: Path = Field(
        Path("var/master.key"),
        description="The key that seals personal parts and signs the chain's heads. Made when there is none. Back it "
        "up, apart from the journal: without it, what is sealed is lost.",
    )
    seal: bool = Field(True, description="Whether personal parts are encrypted under a key for each subject.")
    retain_days: Annotated[dict[str, Days], BeforeValidator(split_pairs)] = Field(
        {},
        description="How long personal parts are kept by the applicant's country, as two letters, and under `other` "
        "for all else. Absent, or 0: for ever.",
    )
    country_field: str = Field(
        "", description="The request field that holds the applicant's country, for retain_days. Absent: no country."
    )

    def retention(self) -> dict[str, int]:
        """retain_days as the journal takes them: "" for those not named."""
        return {"" if country == "other" else country.upper(): days for country, days in self.retain_days.items()}


class IdempotencyConfig(Section):
    """Request ids: with whom they are shared, so that each is decided once."""

    share: Literal["off", "host", "store"] = Field(
        "host",
        description="off: known to this process; host: to all that share the journal's directory; store: to all hosts "
        "that share the feature store, at the price of round trips to it; all of them need the same record.master_key.",
    )
    lease_ms: int = Field(
        5000,
        ge=100,
        le=600_000,
        description="store: how long others wait for a host that is lost. Longer than a decision.",
    )
    on_store_failure: Literal["refuse", "host"] = Field(
        "refuse",
        description="store: while it fails, refuse calls, or decide with what this host knows: a request sent to two "
        "hosts in that time may then be decided twice.",
    )
    timeout_ms: float = Field(500.0, gt=0, le=60_000, description="store: the most that claiming or settling may take.")
    answers_ttl_s: int = Field(86_400, ge=60, description="store: how long other hosts find a decision.")
    clock_skew_ms: float = Field(2000.0, ge=0, le=600_000, description="store: how far hosts' clocks may be apart.")
    answer_bytes_max: int = Field(
        65_536, ge=0, le=1 << 20, description="store: a larger answer is named there, and not held."
    )
