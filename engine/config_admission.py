"""Settings of admission: how much is taken at once, and who goes first."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from engine.admission.gate import GateSettings
from engine.admission.limit import LimitSettings
from engine.admission.quota import QuotaSettings
from engine.config_stores import Section, split_pairs

Rate = Annotated[float, Field(gt=0, le=1e9)]


class AdmissionConfig(Section):
    """What is taken, and what is refused before any work is done for it; see docs/admission.md."""

    enabled: bool = Field(
        True, description="Whether calls can be refused for want of room or time, or for their tenant's quota."
    )
    burst_max: int = Field(
        256,
        ge=0,
        le=100_000,
        description="Calls in the server at once up to which nobody is refused for want of room. Beyond it the server "
        "is pressed, and takes as many as the limit that finds its level allows.",
    )
    limit_initial: int = Field(16, ge=1, le=100_000, description="The limit to begin with.")
    limit_min: int = Field(
        16,
        ge=1,
        le=100_000,
        description="The least that the limit falls to. Decisions that are made together cost less each, so a few at "
        "once answer more callers than one after the other.",
    )
    limit_max: int = Field(256, ge=1, le=100_000, description="The most that it rises to.")
    tolerance: float = Field(
        6.0,
        ge=1.1,
        le=100,
        description="How many times what a lone call takes the mean call may take before the limit falls.",
    )
    probe_every_s: float = Field(
        10.0, ge=0.5, le=3600, description="Under standing pressure, how often it is measured what a lone call takes."
    )
    batch_share: float = Field(
        0.5, gt=0, le=1, description="Batches and messages of streams are taken while less of the room is in use."
    )
    other_share: float = Field(
        0.5, gt=0, le=1, description="The share of the room that reads and writes around the decisions may use."
    )
    stream_wait_ms: float = Field(
        200.0,
        ge=0,
        le=60_000,
        description="How long a message of a DecideStream may wait for room; its sender is held back meanwhile.",
    )
    retry_ms: float = Field(
        200.0, ge=1, le=30_000, description="What a refused call is told to wait; more, the more are refused."
    )
    tenant_rates: Annotated[dict[str, Rate], BeforeValidator(split_pairs)] = Field(
        {},
        description="Decisions a second that a tenant may have of this process, by the tenant's name, and under "
        "`default` for each that is not named. Absent: no quotas. They need server.tenant_header, or all callers are "
        "one.",
    )
    tenant_burst_s: float = Field(
        2.0, gt=0, le=3600, description="How many seconds' worth of its quota a tenant may use at once."
    )
    tenants_max: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="Tenants with a quota that are remembered; the one not seen for longest goes.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> AdmissionConfig:
        if not self.limit_min <= self.limit_max:
            raise ValueError(f"limit_min ({self.limit_min}) must not be more than limit_max ({self.limit_max})")
        return self

    def gate(self) -> GateSettings:
        """The settings as the gate takes them."""
        return GateSettings(
            limit=LimitSettings(
                self.limit_initial, self.limit_min, self.limit_max, self.tolerance, probe_every_s=self.probe_every_s
            ),
            quota=QuotaSettings(self.tenant_rates, self.tenant_burst_s, self.tenants_max),
            burst_max=self.burst_max,
            batch_share=self.batch_share,
            other_share=self.other_share,
            retry_s=self.retry_ms / 1000,
        )
