"""Why a decision came out otherwise: what of the bundle, the engine and its libraries is not as it was."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any


class Cause(StrEnum):
    """What a difference comes from, in the order in which they are looked at."""

    BUNDLE = "bundle"
    ENGINE = "engine"
    LIBRARY = "library"
    FEATURE = "feature"


def differences_of(recorded: bytes, here: bytes) -> list[str]:
    """What differs between two descriptions of an environment, each as `name recorded -> here`; empty when one of them
    cannot be read."""
    try:
        before, after = _flat(json.loads(recorded)), _flat(json.loads(here))
    except (ValueError, AttributeError):
        return []
    names = [*before, *(name for name in after if name not in before)]
    return [
        f"{name} {before.get(name, 'absent')} -> {after.get(name, 'absent')}"
        for name in names
        if before.get(name, "absent") != after.get(name, "absent")
    ]


def _flat(content: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            found |= {f"{inner}": str(version) for inner, version in value.items()}
        else:
            found[name] = str(value)
    return found


def find_cause(
    digests: tuple[str, str], engines: tuple[str, str], environments: tuple[str, str], libraries: list[str]
) -> tuple[Cause, str]:
    """The cause of a difference, and what is known of it. Each pair: as recorded, and here. libraries: what differs
    between the environments."""
    if digests[0] != digests[1]:
        return Cause.BUNDLE, f"decided by {digests[0]}, replayed with {digests[1]}"
    if engines[0] != engines[1]:
        return Cause.ENGINE, f"engine {engines[0]} -> {engines[1]}"
    if environments[0] != environments[1]:
        what = ", ".join(libraries) or "the recorded environment is not kept with the records"
        return Cause.LIBRARY, what
    return Cause.FEATURE, "bundle, engine and libraries are as recorded: a fact of the record is not as it was"
