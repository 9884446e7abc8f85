"""Reads a bundle's files: bounded, digested, and with the line of every YAML node at hand for error messages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from engine.errors import Problem
from engine.shape import mistakes

_FILE_BYTES_MAX = 256 * 1024 * 1024
_FILES_MAX = 10_000
_YAML_BYTES_MAX = 4 * 1024 * 1024

M = TypeVar("M", bound=BaseModel)
Path_ = tuple[str | int, ...]


@dataclass(slots=True)
class Document:
    """A parsed YAML or JSON file: plain data, and the line (from 1) of each node by its path."""

    file: str
    data: Any
    lines: dict[Path_, int] = field(default_factory=dict)

    def place(self, *path: str | int) -> str:
        """A readable place: the path and the nearest line known for it."""
        dotted = ".".join(str(p) for p in path)
        probe = tuple(path)
        while probe not in self.lines and probe:
            probe = probe[:-1]
        line = self.lines.get(probe)
        return f"{dotted} (line {line})" if line is not None and dotted else dotted or "whole file"


@dataclass(slots=True)
class Source:
    """A bundle directory. Problems met while reading gather in `problems`."""

    root: Path
    problems: list[Problem] = field(default_factory=list)

    def report(self, file: str, place: str, message: str, fix: str) -> None:
        """Notes one mistake."""
        self.problems.append(Problem(file, place, message, fix))

    def inside(self, name: str) -> Path | None:
        """The path of a file named in the bundle; None, with a problem noted, for one that leads outside."""
        try:
            root, path = self.root.resolve(), (self.root / name).resolve()
        except (OSError, ValueError):
            self.report(repr(name), "", "is no path", "Name a file inside the bundle's directory.")
            return None
        if not path.is_relative_to(root):
            self.report(name, "", "the path leads outside the bundle", "Name a file inside the bundle's directory.")
            return None
        if _hidden(Path(name)) or _hidden(path.relative_to(root)):
            self.report(
                name, "", "hidden files are no part of a bundle or its digest", "Name a file that is not hidden."
            )
            return None
        return path

    def read_bytes(self, name: str, *, named_by: str) -> bytes | None:
        """A file's content; None, with a problem noted, when it cannot be had."""
        path = self.inside(name)
        if path is None:
            return None
        try:
            if path.stat().st_size > _FILE_BYTES_MAX:
                self.report(name, "", f"the file is larger than {_FILE_BYTES_MAX} bytes", "Ship a smaller file.")
                return None
            return path.read_bytes()
        except OSError as error:
            self.report(
                named_by, "", f"file {name!r} cannot be read ({error.strerror})", "Add it, or correct the name."
            )
            return None

    def read_document(self, name: str, *, named_by: str) -> Document | None:
        """A YAML or JSON file as plain data with lines; None, with a problem noted, when it does not parse."""
        content = self.read_bytes(name, named_by=named_by)
        if content is None:
            return None
        if len(content) > _YAML_BYTES_MAX:
            self.report(name, "", f"the file is larger than {_YAML_BYTES_MAX} bytes", "Split it.")
            return None
        try:
            text = content.decode("utf-8")
            if name.endswith(".json"):
                return Document(name, json.loads(text))
            return _parse_yaml(name, text, self)
        except UnicodeDecodeError:
            self.report(name, "", "the file is not UTF-8 text", "Save it as UTF-8.")
        except json.JSONDecodeError as error:
            self.report(name, f"line {error.lineno}", f"not JSON: {error.msg}", "Correct the syntax.")
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 0
            self.report(name, f"line {line}", f"not YAML: {error.problem}", "Correct the syntax.")
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            self.report(name, "", f"the file cannot be parsed ({type(error).__name__})", "Correct the syntax.")
        return None

    def read_as(self, name: str, shape: type[M], *, named_by: str) -> tuple[M | None, Document | None]:
        """A file checked against its shape; every mistake of form is noted with its place."""
        document = self.read_document(name, named_by=named_by)
        if document is None:
            return None, None
        try:
            return shape.model_validate(document.data), document
        except ValidationError as error:
            for path, message, fix in mistakes(error, "Correct it; docs/bundle.md describes the format."):
                self.report(name, document.place(*path), message, fix)
            return None, document


def _parse_yaml(name: str, text: str, source: Source) -> Document | None:
    loader = yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.AliasEvent):
            line = event.start_mark.line + 1 if event.start_mark else 0
            source.report(name, f"line {line}", "aliases (*name) are not taken", "Write the value out.")
            return None
    node = yaml.compose(text, Loader=loader)
    document = Document(name, yaml.load(text, Loader=loader))
    if node is not None:
        _note_lines(node, (), document, source, depth=0)
    return document


def _note_lines(node: yaml.Node, path: Path_, document: Document, source: Source, depth: int) -> None:
    document.lines[path] = node.start_mark.line + 1
    if depth > 64:
        return
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(getattr(key, "value", key))
            if name in seen:
                place = f"{'.'.join(map(str, (*path, name)))} (line {key.start_mark.line + 1})"
                source.report(document.file, place, f"the key {name!r} stands twice", "Keep one of the two.")
            seen.add(name)
            _note_lines(value, (*path, name), document, source, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _note_lines(value, (*path, index), document, source, depth + 1)


def _hidden(path: Path) -> bool:
    return any((part.startswith(".") and part != "..") or part == "__pycache__" for part in path.parts)


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if _hidden(relative) or not path.is_file():
            continue
        yield relative.as_posix(), path


def digest_of(root: Path) -> str:
    """The digest of a bundle: SHA-256 over the name and SHA-256 of every file, names sorted by code point. Hidden
    files are left out. The same files give the same digest on any machine."""
    total = hashlib.sha256(b"assay-bundle-1\n")
    for count, (name, path) in enumerate(sorted(_files(root))):
        if count >= _FILES_MAX:
            raise ValueError(f"more than {_FILES_MAX} files in the bundle")
        with path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{content}  {name}\n".encode())
    return "sha256:" + total.hexdigest()
