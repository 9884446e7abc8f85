"""The command line: serve, check, decide, config, model."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from engine import __version__
from engine.cli_admin import admin_app
from engine.cli_audit import audit_app
from engine.cli_backup import backup_app
from engine.cli_features import features_app
from engine.cli_outcomes import dataset_app, outcomes_app
from engine.cli_record import record_app
from engine.cli_replay import replay
from engine.cli_workers import workers_app
from engine.console import fail
from engine.errors import AssayError, BundleError, ConfigError, Problem, RequestError

app = typer.Typer(
    name="assay",
    help="A real-time lending decision engine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
model_app = typer.Typer(help="Work with model files.", no_args_is_help=True)
app.add_typer(model_app, name="model")
store_app = typer.Typer(help="Look after the feature store.", no_args_is_help=True)
app.add_typer(store_app, name="store")
app.add_typer(features_app, name="features")
app.add_typer(record_app, name="record")
app.add_typer(audit_app, name="audit")
app.add_typer(backup_app, name="backup")
app.add_typer(admin_app, name="admin")
app.add_typer(workers_app, name="workers")
app.add_typer(outcomes_app, name="outcomes")
app.add_typer(dataset_app, name="dataset")
app.command()(replay)

_out = Console()
_err = Console(stderr=True)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="Settings file. Absent: $ASSAY_CONFIG, else assay.toml.")
]


def _version(wanted: bool) -> None:
    if wanted:
        _out.print(f"assay {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """A real-time lending decision engine."""


@app.command()
def serve(config: ConfigOption = None) -> None:
    """Serve the bundle over gRPC until SIGTERM, then drain. Several workers: server.workers."""
    from engine.bootstrap_levels import reread_levels_on_hup
    from engine.config import load_config
    from engine.telemetry.logs import configure_logs

    try:
        settings = load_config(config)
        configure_logs(settings.log.level, settings.log.levels)
        ready = f"assay: ready, {settings.server.address}"
        if settings.server.workers == 1:
            from engine.bootstrap import serve as run

            reread_levels_on_hup(lambda: load_config(config))
            run(settings, lambda port: _err.print(f"{ready} (port {port})", highlight=False), config)
        else:
            from engine.supervisor.serve import serve_group, worker_count

            workers = worker_count(settings)
            said = f"{workers} worker{'s' if workers > 1 else ''}"
            serve_group(
                settings,
                workers,
                lambda port: _err.print(f"{ready} (port {port}), {said}", highlight=False),
                config,
            )
    except ConfigError as error:
        fail("The settings cannot be used", error.problems)
    except BundleError as error:
        fail("The bundle cannot be served", error.problems)
    except AssayError as error:
        _err.print(f"assay cannot serve: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    # All is drained, written and closed. The interpreter would now wait for every thread of gRPC and of the drivers
    # that is still on its way out, for as long as that takes.
    logging.shutdown()
    sys.stderr.flush()
    os._exit(0)


@app.command()
def check(
    directory: Annotated[Path, typer.Argument(help="The bundle's directory.", metavar="DIR")],
) -> None:
    """Check a bundle without serving it: all mistakes at once, each with file, place and what to do."""
    from engine.bundle.load import load_bundle

    try:
        loaded = load_bundle(directory)
    except BundleError as error:
        fail(f"{directory} cannot be served", error.problems)
    plan = loaded.plan
    _out.print(f"[bold green]{plan.name} {plan.version}[/] can be served", highlight=False)
    for flow in plan.flows.values():
        views, features = len(flow.features.views), flow.features.count
        _out.print(f"  {flow.name}: {features} features, {views} rows read", highlight=False)
        for one in flow.models:
            explained = "exact reasons" if one.model.manifest is not None else "no reasons"
            shared = "runs shared" if one.model.batchable else "runs one by one"
            _out.print(f"    {one.role}: {one.model.id}@{one.model.version}, {explained}, {shared}", highlight=False)
    used = {one.model.id for flow in plan.flows.values() for one in flow.models}
    spare = [f"{name}@{model.version}" for name, model in loaded.models.items() if name not in used]
    if spare:
        _out.print(f"  ready, in no flow: {', '.join(spare)}", highlight=False)
    for note in loaded.notes:
        _out.print(f"note: {note}", highlight=False, markup=False)
    _out.print(f"{loaded.scenarios} golden scenarios give their stored answer", highlight=False)
    _out.print(plan.digest, highlight=False, soft_wrap=True)


@app.command()
def decide(
    file: Annotated[
        Path, typer.Argument(help="JSON: application, features, and optionally now; - for standard input.")
    ],
    bundle: Annotated[Path | None, typer.Option("--bundle", "-b", help="Absent: the bundle that ships.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Print the whole record, not the decision alone.")] = False,
) -> None:
    """Decide one application without server or store; the same answer as served. Prints JSON."""
    from engine.bundle.load import default_bundle
    from engine.offline import decide_file

    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail("The application cannot be read", [Problem(str(file), "", str(error), "Name a readable UTF-8 file.")])
    try:
        print(decide_file(bundle or default_bundle(), text, str(file), full=full))
    except BundleError as error:
        fail("It cannot be decided", error.problems)
    except RequestError as error:
        problems = [Problem(str(file), v.field, v.description, "Correct this field.") for v in error.violations]
        fail("The application is refused", problems)


@app.command()
def trace(
    id_: Annotated[
        str, typer.Argument(help="A trace id, or the id of a decision; `last` for the newest.", metavar="ID")
    ],
    config: ConfigOption = None,
    file: Annotated[Path | None, typer.Option("--file", help="Another trace file than the settings name.")] = None,
) -> None:
    """Print a call's trace from the local trace file, as a waterfall."""
    from engine.config import load_config
    from engine.telemetry.tracing.search import files_of, find_trace, latest_trace
    from engine.telemetry.tracing.waterfall import waterfall

    try:
        path = file or Path(load_config(config).tracing.settings().file_path)
        found = latest_trace(path) if id_ == "last" else find_trace(path, id_)
    except ConfigError as error:
        fail("The settings cannot be used", error.problems)
    except OSError as error:
        fail("The trace file cannot be read", [Problem(str(path), "", str(error.strerror), "Name a readable file.")])
    if found is None:
        files = ", ".join(map(str, files_of(path))) or f"{path}, which is not there"
        fix = "Traces are written within a second, and old files are let go; tracing.exporters must hold `file`."
        fail("There is no such trace", [Problem(files, id_[:64], "is not in the file", fix)])
    _out.print(waterfall(found))


@app.command("config")
def config_(config: ConfigOption = None) -> None:
    """Print the settings in force, as TOML, with what each means."""
    from engine.config import load_config
    from engine.config_text import as_toml

    try:
        print(as_toml(load_config(config)), end="")
    except ConfigError as error:
        fail("The settings cannot be used", error.problems)


@store_app.command("migrate")
def store_migrate(config: ConfigOption = None) -> None:
    """Make Cassandra's keyspace and tables, or bring them up to date. Harmless when repeated."""
    from engine.bootstrap_stores import cassandra_settings
    from engine.config import load_config
    from engine.features.stores.cassandra_schema import migrate

    try:
        settings = load_config(config)
        done = migrate(cassandra_settings(settings.cassandra))
    except ConfigError as error:
        fail("The settings cannot be used", error.problems)
    except (AssayError, ValueError) as error:
        _err.print(f"not migrated: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    keyspace = settings.cassandra.keyspace
    if done.applied:
        _out.print(f"keyspace {keyspace}: applied {', '.join(map(str, done.applied))}", highlight=False, soft_wrap=True)
    else:
        _out.print(f"keyspace {keyspace} is up to date", highlight=False)


@store_app.command("ping")
def store_ping(config: ConfigOption = None) -> None:
    """Ask the store that the settings name whether it can serve. Exit code 1 when it cannot."""
    from engine.bootstrap_stores import open_store
    from engine.config import load_config

    try:
        settings = load_config(config)
        store = open_store(settings, guarded=False)
        try:
            store.ping()
        finally:
            store.close()
    except ConfigError as error:
        fail("The settings cannot be used", error.problems)
    except (AssayError, ValueError) as error:
        _err.print(f"the store cannot serve: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    _out.print(f"{store.name} can serve", highlight=False)


@model_app.command("inspect")
def model_inspect(
    file: Annotated[Path, typer.Argument(help="A model made by `assay model export`.")],
) -> None:
    """Print what a model file says of itself, as JSON."""
    from engine.errors import ModelError
    from engine.scoring.manifest import MANIFEST_KEY
    from engine.scoring.onnx_runtime import Session

    try:
        manifest = Session(file.read_bytes()).metadata.get(MANIFEST_KEY)
    except (OSError, ModelError) as error:
        fail("The model cannot be read", [Problem(str(file), "", str(error), "Name an ONNX file.")])
    if manifest is None:
        problem = Problem(str(file), "metadata", "there is no manifest", "It was not made by `assay model export`.")
        fail("The model says nothing of itself", [problem])
    print(json.dumps(json.loads(manifest), indent=2, ensure_ascii=False))


@model_app.command("export")
def model_export(
    native: Annotated[
        Path, typer.Argument(help="LightGBM .txt, XGBoost .json or .ubj, CatBoost .cbm, scorecard .json.")
    ],
    draft: Annotated[Path, typer.Option("--draft", help="What the manifest is to say, as YAML or JSON.")],
    reference: Annotated[Path, typer.Option("--reference", help="Reference population: .npy or .csv[.gz].")],
    rows: Annotated[Path, typer.Option("--rows", help="All training rows, to check the export on.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The ONNX file to write.")],
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read an EBM from a pickle. A pickle runs code: only your own.")
    ] = False,
) -> None:
    """Turn a trained model into one ONNX graph with exact contributions, checked on every row."""
    try:
        from engine.export.command import run
        from engine.export.errors import ExportError
    except ImportError as error:
        problem = Problem("environment", str(error.name or ""), "is not installed", "Run `make setup-dev`.")
        fail("Models cannot be exported here", [problem])
    try:
        manifest = run(native, draft, reference, rows, out, allow_pickle=allow_pickle)
    except ExportError as error:
        _err.print("[bold red]Not exported[/]", highlight=False)
        _err.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    checked = manifest.export_check
    _out.print(f"{out}: {manifest.id} {manifest.version}", highlight=False, soft_wrap=True)
    if checked is not None:
        _out.print(
            f"checked on {checked.rows} rows: raw off by at most {checked.raw_max_abs:.2g}, contributions by "
            f"{checked.contribution_max_abs:.2g}; the same four reasons on {checked.top4_agreement:.4%}",
            highlight=False,
        )


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
