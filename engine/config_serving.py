"""Settings of the worker processes that serve on one port: part of the section `server`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from engine.config_stores import Section

# Of the 64 that the table of request ids takes; a restart has two at once in a worker's place.
WORKERS_MAX = 60
AUTO = 0


def _count(value: object) -> object:
    return AUTO if isinstance(value, str) and value.strip().lower() == "auto" else value


class ServingConfig(Section):
    """How many processes serve, and how they follow one another."""

    workers: Annotated[int, BeforeValidator(_count)] = Field(
        1,
        ge=0,
        le=WORKERS_MAX,
        description="Processes that serve on the one port, with a supervisor above them. auto, or 0: one for each core "
        "that may be used, as far as the memory goes. 1: one process without a supervisor.",
    )
    pin_workers: bool = Field(False, description="Whether each worker keeps to a core of its own.")
    connection_age_s: float = Field(
        30.0,
        ge=0,
        le=86_400,
        description="With several workers: after this long (give or take a tenth) a connection is told to reconnect, "
        "its calls untouched. So callers spread over the workers, and a worker can leave without refusing a call. 0: "
        "never; a restart then refuses the calls of connections that stay.",
    )
