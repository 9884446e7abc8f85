"""Settings as TOML, each with its meaning, and as the page of the reference."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, SecretStr

from engine.config import Config


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Path | str):
        return json.dumps(str(value), ensure_ascii=False)
    if isinstance(value, SecretStr):
        return f'"{value}"'  # asterisks
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if isinstance(value, dict):
        inside = ", ".join(
            f"{json.dumps(str(key), ensure_ascii=False)} = {_literal(one)}" for key, one in value.items()
        )
        return f"{{ {inside} }}" if inside else "{}"
    return repr(value)


def as_toml(config: Config) -> str:
    """All settings in force. What is absent stands as a comment."""
    lines = []
    for section, field in Config.model_fields.items():
        part: BaseModel = getattr(config, section)
        assert isinstance(part, BaseModel)
        lines += [f"# {(type(part).__doc__ or '').strip()}", f"[{section}]"]
        for name, info in type(part).model_fields.items():
            value = getattr(part, name)
            lines.append(f"# {info.description}")
            lines.append(f"# {name} =" if value is None else f"{name} = {_literal(value)}")
        lines.append("")
        assert field is not None
    return "\n".join(lines)


def as_markdown() -> str:
    """The reference of settings, from their single source."""
    lines = []
    for section, field in Config.model_fields.items():
        part = field.annotation
        assert isinstance(part, type) and issubclass(part, BaseModel)
        lines += [f"## {section}", "", (part.__doc__ or "").strip(), ""]
        lines += ["| setting | variable | default | meaning |", "| --- | --- | --- | --- |"]
        for name, info in part.model_fields.items():
            variable = f"ASSAY_{section}_{name}".upper()
            default = "" if info.default is None else f"`{_literal(info.default)}`"
            lines.append(f"| `{name}` | `{variable}` | {default} | {info.description} |")
        lines.append("")
    return "\n".join(lines)
