"""Writes the reference pages of docs/ from their single sources: settings, errors, reason codes, features, functions.

    python -m tools.docs            # write every page
    python -m tools.docs --check    # write nothing; exit 1 and name the pages that are out of date

A page is a pure function of its source, so the same tree gives the same bytes.
"""

from __future__ import annotations

import inspect
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from engine.bundle.schema import LegalMapping, ReasonsFile
from engine.config import Config
from engine.config_text import as_markdown
from engine.rpc.status import DOMAIN, code_of
from tools.docs_clients import clients_page
from tools.docs_common import BUNDLE, COMMAND, ROOT, page, read_yaml, table
from tools.docs_features import features_page, functions_page

DOCS = ROOT / "docs"
ERROR_PROTO = "assay/decision/v1/error_reason.proto"

_COMPONENTS = {
    "credit": "Creditworthiness: will the subject repay. Given by credit models and cut-offs.",
    "fraud": "Is the application what it claims to be. Given by fraud models and the fraud gate. Not for the "
    "applicant's eyes without review.",
    "policy": "The lender's rules: knock-outs, affordability, limits, legal cap, missing facts.",
}


# --- settings -----------------------------------------------------------------------------------------------------


def settings_page() -> str:
    """docs/settings.md: every setting with its variable, default and meaning, and the values allowed."""
    body = [
        "Settings change operations; what changes decisions is in the bundle. They stand in `assay.toml` (or the file",
        "that `--config` or `ASSAY_CONFIG` names), one table a section. A variable goes before the file.",
        "`assay config` prints all settings in force. All mistakes are reported at once when the server starts.",
        "",
        as_markdown(),
        "## Values allowed",
        "",
        "Settings that are not listed here take any value of their type.",
        "",
        *table(("setting", "allowed"), _allowed()),
    ]
    return page("Settings", "engine/config.py", body)


def _allowed() -> list[tuple[str, str]]:
    schema = Config.model_json_schema()
    rows = []
    for section, reference in schema["properties"].items():
        part = schema["$defs"][reference["$ref"].rsplit("/", 1)[-1]]
        for name, info in part["properties"].items():
            text = _bounds(info)
            if text:
                rows.append((f"`{section}.{name}`", text))
    return rows


def _bounds(info: dict[str, Any]) -> str:
    if "enum" in info:
        return ", ".join(f"`{value}`" for value in info["enum"])
    low, above, high = info.get("minimum"), info.get("exclusiveMinimum"), info.get("maximum")
    parts = [f"{low:,} or more"] if low is not None else [f"more than {above:,}"] if above is not None else []
    if high is not None:
        parts.append(f"at most {high:,}")
    return ", ".join(parts)


# --- errors -------------------------------------------------------------------------------------------------------


def errors_page() -> str:
    """docs/errors.md: every ErrorReason with its status code, from the comments of the proto."""
    body = [
        "Every call that the engine refuses carries `google.rpc.ErrorInfo` with one of these reasons and the domain",
        f'`"{DOMAIN}"`. Branch on the reason, never on the text of the message. [api.md](api.md#errors) shows how.',
        "",
    ]
    reasons = error_reasons()
    body += table(("reason", "status code"), ((f"[`{n}`](#{n.lower()})", f"`{code_of(n).name}`") for n, _ in reasons))
    for name, comment in reasons:
        text, _, example = comment.partition("Metadata example: ")
        body += [f"## {name}", "", f"Status code `{code_of(name).name}`.", "", text.strip(), ""]
        if example:
            body += [f"Metadata, for example: `{example.strip()}`", ""]
    return page("Errors", f"protos/{ERROR_PROTO}", body)


def error_reasons() -> list[tuple[str, str]]:
    """(name without its prefix, comment on one line) of every reason that is sent, in the order of the proto."""
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "set"
        code = protoc.main(
            ["protoc", f"-I{ROOT / 'protos'}", "--include_source_info", f"--descriptor_set_out={out}", ERROR_PROTO]
        )
        if code != 0:
            raise RuntimeError(f"protoc cannot read {ERROR_PROTO}: exit {code}")
        file = FileDescriptorSet.FromString(out.read_bytes()).file[0]
    comments = {tuple(one.path): one.leading_comments for one in file.source_code_info.location}
    found = []
    for index, value in enumerate(file.enum_type[0].value):
        if value.number != 0:
            name = value.name.removeprefix("ERROR_REASON_")
            # Path of the comment: field 5 of the file (enums), the first, field 2 of it (values), this one.
            found.append((name, " ".join(comments[5, 0, 2, index].split())))
    return found


# --- reason codes -------------------------------------------------------------------------------------------------


def reason_codes_page() -> str:
    """docs/reason-codes.md: every code of the shipped bundle, texts and legal mapping."""
    reasons = ReasonsFile.model_validate(read_yaml(BUNDLE / "reasons.yaml")).reasons
    body = [
        "The codes of the bundle that ships. Each has two texts in each language: for the applicant, and for staff.",
        "[reasons.md](reasons.md) says how reasons are found, and what to show to whom. **This is not legal advice:",
        "counsel must check every text and mapping before use.**",
        "",
    ]
    notes: dict[tuple[str, str], str] = {}
    for component, meaning in _COMPONENTS.items():
        codes = {code: entry for code, entry in reasons.items() if entry.component == component}
        rows = []
        for code, entry in codes.items():
            applicant = "<br>".join(text.applicant for text in entry.texts.values())
            internal = "<br>".join(text.internal for text in entry.texts.values())
            label = f"`{code}`" + (f"<br>retired: {entry.retired}" if entry.retired else "")
            rows.append((label, applicant, internal, entry.legal.regulation_b, _notes(entry.legal, notes)))
        body += [f"## {component.capitalize()}", "", f"{meaning} {len(codes)} codes.", ""]
        body += table(("code", "for the applicant", "for staff", "Regulation B, form C-1", "notes"), rows)
    body += ["## Notes", ""]
    body += table(("note", "law", "what it asks for"), ((name, law, text) for (law, text), name in notes.items()))
    return page("Reason codes", "models/lending/reasons.yaml", body)


def _notes(legal: LegalMapping, notes: dict[tuple[str, str], str]) -> str:
    """The short names of a code's notes; notes seen for the first time get one: G1, G2 ..., P1, P2 ..."""
    names = []
    for law, text in (("GDPR", legal.gdpr), ("PIPL", legal.pipl)):
        if text:
            count = sum(1 for other, _ in notes if other == law)
            names.append(notes.setdefault((law, text), f"{law[0]}{count + 1}"))
    return " ".join(names)


PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "errors.md": errors_page,
    "reason-codes.md": reason_codes_page,
    "features.md": features_page,
    "functions.md": functions_page,
    "clients-go-java.md": clients_page,
}


def stale_pages() -> list[str]:
    """The pages of docs/ that are not what their source makes of them now."""
    stale = []
    for name, make in PAGES.items():
        path = DOCS / name
        if not path.is_file() or path.read_text(encoding="utf-8") != make():
            stale.append(name)
    return stale


def main(arguments: Sequence[str]) -> int:
    """Writes the pages, or with --check says which are out of date. Gives the exit code."""
    if list(arguments) == ["--check"]:
        stale = stale_pages()
        for name in stale:
            print(f"docs/{name} is out of date: run `{COMMAND}`", file=sys.stderr)
        return 1 if stale else 0
    if arguments:
        print(inspect.getdoc(sys.modules[__name__]), file=sys.stderr)
        return 2
    DOCS.mkdir(exist_ok=True)
    for name, make in PAGES.items():
        (DOCS / name).write_text(make(), encoding="utf-8")
        print(f"docs/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
