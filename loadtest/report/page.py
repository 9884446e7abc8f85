"""The frame of a report: one file, nothing from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

_HERE = Path(__file__).resolve().parent


def page(title: str, body: Iterable[str]) -> str:
    """The whole document."""
    style = (_HERE / "style.css").read_text(encoding="utf-8")
    script = (_HERE / "script.js").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Nothing is fetched, whatever a name in the data may look like.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'\">\n"
        f"<title>{html.escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + f"\n</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1, sums: int = 0) -> str:
    """A table. Cells are HTML; the first `left` columns are words; the first `sums` rows stand for all."""
    told = [*head]
    top = "".join(f'<th class="l">{text}</th>' if at < left else f"<th>{text}</th>" for at, text in enumerate(told))
    body = []
    for number, row in enumerate(rows):
        cells = "".join(f'<td class="l">{c}</td>' if at < left else f"<td>{c}</td>" for at, c in enumerate(row))
        body.append(f'<tr class="sum">{cells}</tr>' if number < sums else f"<tr>{cells}</tr>")
    thead = f"<thead><tr>{top}</tr></thead>" if any(told) else ""
    return f'<div class="card"><table>{thead}<tbody>{"".join(body)}</tbody></table></div>'


def tile(value: str, unit: str, what: str) -> str:
    """A figure to be seen at once."""
    small = f"<small>{html.escape(unit)}</small>" if unit else ""
    return f'<div class="tile"><b>{html.escape(value)}{small}</b><span>{html.escape(what)}</span></div>'


def badge(kind: str, text: str) -> str:
    """good, bad or warn."""
    return f'<span class="badge {kind}">{html.escape(text)}</span>'


def notice(kind: str, title: str, lines: Sequence[str]) -> str:
    """Something to be read before the figures."""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f'<div class="notice {kind}"><b>{html.escape(title)}</b><ul>{items}</ul></div>'


def picked(group: str, parts: Sequence[tuple[str, str]]) -> str:
    """One of several parts, chosen by a button; (name, HTML). The first is shown at the start, and without script."""
    if len(parts) == 1:
        return parts[0][1]
    buttons = "".join(
        f'<button type="button" data-name="{html.escape(name, quote=True)}" aria-pressed="{str(at == 0).lower()}">'
        f"{html.escape(name)}</button>"
        for at, (name, _) in enumerate(parts)
    )
    shown = "".join(
        f'<div data-in="{group}" data-name="{html.escape(name, quote=True)}"{"" if at == 0 else " hidden"}>{part}</div>'
        for at, (name, part) in enumerate(parts)
    )
    return f'<div class="pick" data-group="{group}">{buttons}</div>{shown}'
