"""Refusals of changes. Reasons are names of `assay.admin.v1.AdminErrorReason` without their prefix."""

from __future__ import annotations

from engine.errors import Refusal


def changed_meanwhile(generation: int, expected: int) -> Refusal:
    """What is served is not what the author looked at."""
    return Refusal(
        "GENERATION_CHANGED",
        f"What is served was changed meanwhile: it is generation {generation}, not {expected}. Look at it again.",
        {"generation": str(generation), "expected_generation": str(expected)},
    )


def in_progress() -> Refusal:
    """Another change holds the lock."""
    return Refusal("CHANGE_IN_PROGRESS", "Another change is under way; retry shortly.")


def not_prepared(worker: str, why: str) -> Refusal:
    """A worker process could not get ready."""
    return Refusal(
        "PREPARE_FAILED", f"Nothing was changed: worker {worker} could not get ready: {why}", {"worker": worker}
    )


def not_found(digest: str, message: str) -> Refusal:
    """No such bundle."""
    return Refusal("BUNDLE_NOT_FOUND", message, {"digest": digest[:80]})


def not_recorded(why: str) -> Refusal:
    """The journal did not take the change."""
    return Refusal("RECORD_FAILED", f"The change could not be recorded, so it was not made: {why}")


def not_serving() -> Refusal:
    """Before the start is over, or after the stop began."""
    return Refusal("NOT_SERVING", "The server has not started wholly, or is stopping; retry shortly.")
