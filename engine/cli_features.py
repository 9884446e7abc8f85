"""`assay features`: load files, look at an entity, compare stores, erase an entity."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from engine.cli_load import load
from engine.cli_stores import catalogue_of, opened_store, settings_of
from engine.console import ConfigOption, err, fail, say
from engine.errors import Problem, StoreError

features_app = typer.Typer(
    name="features",
    help="Write, read, compare and erase what is known of entities.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
features_app.command()(load)


# --- get ----------------------------------------------------------------------------------------------------------


@features_app.command()
def get(
    entity: Annotated[str, typer.Argument(help="The entity's name in the catalogue, for example applicant.")],
    entity_id: Annotated[str, typer.Argument(metavar="ID", help="The entity's id.")],
    view: Annotated[list[str] | None, typer.Option("--view", help="Only this view.")] = None,
    at: Annotated[
        str | None, typer.Option("--at", help="The moment that ages are told for (RFC 3339). Absent: now.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Print what the stored bytes are, too.")] = False,
    config: ConfigOption = None,
) -> None:
    """Print what the store holds of an entity, as a decision would read it now."""
    from engine.bundle.write_plan import make_desk_plan
    from engine.clock import SystemClock
    from engine.errors import Refusal, RequestError
    from engine.feature_desk import FeatureDesk
    from engine.features_text import as_lines, as_tree

    settings = settings_of(config)
    clock = SystemClock() if at is None else _FixedClock(_moment_us(at))
    desk_plan = make_desk_plan(catalogue_of(settings))
    with opened_store(settings) as store:
        assert store is not None
        desk = FeatureDesk(store, clock)
        desk.serve(desk_plan, None)
        try:
            reading = desk.read(entity, entity_id, view or ())
            values = store.read([one.key for one in reading.views]) if raw and reading.views else []
        except RequestError as error:
            problems = [Problem("command line", v.field, v.description, "Correct it.") for v in error.violations]
            fail("Nothing can be read", problems)
        except (Refusal, StoreError) as error:
            fail(f"The store failed: {error.__cause__ or error}")
    if as_json:
        print(json.dumps(as_tree(reading, values), indent=2, ensure_ascii=False))
        return
    for line in as_lines(reading, values):
        say(line)


class _FixedClock:
    """A clock that stands."""

    def __init__(self, now_us: int) -> None:
        self._now_us = now_us

    def now_us(self) -> int:
        """See `engine.clock.Clock`."""
        return self._now_us

    @staticmethod
    def tick_ns() -> int:
        """See `engine.clock.Clock`."""
        return time.perf_counter_ns()


def _moment_us(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        problem = Problem("command line", "--at", "is no moment with its time zone", "Write 2026-01-31T00:00:00Z.")
        fail("Nothing can be read", [problem])
    from engine.features.writing.checks import microseconds_of

    return microseconds_of(moment)


# --- consistency --------------------------------------------------------------------------------------------------


@features_app.command()
def consistency(
    left: Annotated[Path, typer.Argument(help="The settings file that names one store.")],
    right: Annotated[Path, typer.Argument(help="The settings file that names the other.")],
    repair: Annotated[bool, typer.Option("--repair", help="Copy the newer of two rows to the other store.")] = False,
    examples: Annotated[int, typer.Option("--examples", min=0, help="How many keys to name.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Hold two stores against each other. Ends with 0 when they hold the same, else with 1."""
    from engine.features.compare import Comparer, Comparison
    from engine.features_text import comparison_lines, comparison_tree
    from engine.loading.progress import CountProgress

    found = Comparison()
    try:
        with (
            opened_store(settings_of(left)) as one,
            opened_store(settings_of(right)) as other,
            CountProgress(err, "rows compared") as progress,
        ):
            assert one is not None and other is not None
            for found in Comparer(one, other, examples_max=examples, repair=repair).run():
                progress.update(found.keys)
    except StoreError as error:
        fail(f"A store failed after {found.keys:,} rows: {error}")
    if as_json:
        print(json.dumps(comparison_tree(found), indent=2, ensure_ascii=False))
    else:
        for line in comparison_lines(found):
            say(line)
    if not found.equal:
        raise typer.Exit(1)


# --- delete -------------------------------------------------------------------------------------------------------


@features_app.command()
def delete(
    entity: Annotated[str, typer.Argument(help="The entity's name in the catalogue, for example applicant.")],
    entity_id: Annotated[str, typer.Argument(metavar="ID", help="The entity's id.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigOption = None,
) -> None:
    """Erase everything that the store holds of an entity. Harmless when repeated."""
    from engine.features.writing.checks import id_fault

    settings = settings_of(config)
    entities = catalogue_of(settings).file.entities
    problems = []
    if entity not in entities:
        fix = f"Use one of {', '.join(entities)}."
        problems.append(Problem("command line", "ENTITY", f"{entity!r} is not in the catalogue", fix))
    if (fault := id_fault("ID", entity_id)) is not None:
        problems.append(Problem("command line", "ID", fault.message, "Correct it."))
    if problems:
        fail("Nothing is erased", problems)
    if not yes and not typer.confirm(f"Erase everything known of this {entity}, for good?", err=True):
        raise typer.Exit(1)
    try:
        with opened_store(settings) as store:
            assert store is not None
            removed = store.delete_entity(entity, entity_id)
    except StoreError as error:
        fail(f"Not everything is erased, run the same command again: {error}")
    say(f"{removed} rows erased")


if __name__ == "__main__":
    features_app()
