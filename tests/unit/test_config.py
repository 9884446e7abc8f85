"""Settings: files, variables before files, and every mistake at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import Config, load_config
from engine.config_text import as_toml
from engine.errors import ConfigError


def _mistakes(file: Path | None, environment: dict[str, str]) -> list[tuple[str, str, str]]:
    with pytest.raises(ConfigError) as caught:
        load_config(file, environment)
    for problem in caught.value.problems:
        assert problem.message
        assert problem.fix
    return [(p.file, p.place, p.message) for p in caught.value.problems]


def test_without_anything_the_defaults_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(environment={}) == Config()


def test_variables_go_before_the_file_and_the_file_before_defaults(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('[server]\nthreads = 8\nwaiting_max = 9\n[store]\nkind = "memory"\n', "utf-8")
    config = load_config(file, {"ASSAY_SERVER_THREADS": "16", "HOME": "/x", "ASSAYER": "1"})
    assert (config.server.threads, config.server.waiting_max, config.store.kind) == (16, 9, "memory")
    named = load_config(environment={"ASSAY_CONFIG": str(file)})
    assert named.server.threads == 8


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "assay.toml"
    file.write_text(
        '[server]\nthreads = 1000\ncolour = "red"\n[record]\non_failure = "ignore"\n[logs]\nlevel = "info"\n', "utf-8"
    )
    found = _mistakes(file, {"ASSAY_STORE_READ_BUDGET_MS": "soon", "ASSAY_SERVER_TREADS": "4"})
    told = " ".join(f"{f} {p}" for f, p, _ in found)
    for place in (
        "server.threads",
        "server.colour",
        "record.on_failure",
        "logs",
        "ASSAY_STORE_READ_BUDGET_MS",
        "ASSAY_SERVER_TREADS",
    ):
        assert place in told
    assert len(found) == 6


def test_a_mistake_in_a_variable_is_not_blamed_on_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ((file, place, _),) = _mistakes(None, {"ASSAY_SERVER_THREADS": "many"})
    assert "assay.toml" not in file
    assert "ASSAY_SERVER_THREADS" in place


@pytest.mark.parametrize("content", [b"[server", b"\xff\xfe", b"server = 5\n", b"= 3", b"[[server]]\n"])
def test_a_file_that_is_no_settings_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "assay.toml"
    file.write_bytes(content)
    found = _mistakes(file, {"ASSAY_SERVER_THREADS": "4"})
    assert found[0][0] == str(file)


def test_a_file_that_is_not_there_or_is_a_directory(tmp_path: Path) -> None:
    assert _mistakes(tmp_path / "missing.toml", {})
    assert _mistakes(tmp_path, {})


@pytest.mark.parametrize(
    "environment",
    [
        {"ASSAY_SERVER_TLS_CERTIFICATE": "a"},
        {"ASSAY_SERVER_TLS_CLIENT_CA": "a"},
        {"ASSAY_SERVER_STREAMS_MAX": "10", "ASSAY_SERVER_THREADS": "10"},
        {"ASSAY_SERVER_THREADS": "0"},
        {"ASSAY_SERVER_MESSAGE_BYTES_MAX": "1"},
        {"ASSAY_STORE_READ_BUDGET_MS": "nan"},
        {"ASSAY_STORE_READ_BUDGET_MS": "inf"},
        {"ASSAY_STORE_READ_BUDGET_MS": "-1"},
        {"ASSAY_RECORD_DURABILITY": "none"},
        {"ASSAY_LOG_LEVEL": "INFO "},
    ],
)
def test_settings_out_of_bounds_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _mistakes(None, environment)


def test_printed_settings_can_be_read_back(tmp_path: Path) -> None:
    config = load_config(
        environment={"ASSAY_SERVER_ADDRESS": 'unix:/tmp/a "quoted" \\ path', "ASSAY_STORE_PATH": "é\n"}
    )
    file = tmp_path / "printed.toml"
    file.write_text(as_toml(config), "utf-8")
    assert load_config(file, {}) == config
