"""`report.html`: the card, the plots and every reply of the probe on one page without a server."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stentor import assets
from stentor.data.files import write_text
from stentor.evaluate.probe import Record
from stentor.report.plots import CAPTIONS

_SHOWN = ("kind", "category", "family", "seen", "sample", "prompt", "response", "outcome",
          "supportive", "stopped", "reason")  # fmt: skip


def write_page(
    folder: Path, report: Mapping[str, Any], card: str, plots: Mapping[str, str],
    records: Sequence[Record],
) -> Path:  # fmt: skip
    """Write `report.html` into a run's folder from its card (Markdown), plots (SVG) and replies."""
    template = assets.path("report", "page.html").read_text(encoding="utf-8")
    figures = "".join(
        f"<figure>{_inline(svg)}<figcaption>{html.escape(CAPTIONS[name])}</figcaption></figure>"
        for name, svg in plots.items()
    )
    rows = [{k: v for k, v in asdict(r).items() if k in _SHOWN} for r in records]
    # "</script>" in a reply must not end the element that carries it
    data = json.dumps(rows, ensure_ascii=False).replace("<", "\\u003c")
    filled = {
        "title": html.escape(str(report["name"])),
        "plots": figures,
        "card": to_html(card),
        "replies": data,
        "hidden": "" if rows else "hidden",
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda m: filled[m[1]], template)
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _inline(svg: str) -> str:
    """An SVG document as an element of a page, without its XML head."""
    return svg[svg.index("<svg") :]


def to_html(card: str) -> str:
    """The Markdown that our cards are made of (headings, tables, lists, code, emphasis) as HTML."""
    out: list[str] = []
    for block in _blocks(card):
        first = block[0]
        if first.startswith("```"):
            out.append(f"<pre><code>{html.escape(chr(10).join(block[1:-1]))}</code></pre>")
        elif first.startswith("#"):
            level = len(first) - len(first.lstrip("#"))
            out.append(f"<h{level}>{_text(first.lstrip('# '))}</h{level}>")
        elif first.startswith("|"):
            out.append(_table(block))
        elif first.startswith("- "):
            out.append(_list(block))
        else:
            out.append(f"<p>{_text(' '.join(block))}</p>")
    return "\n".join(out)


def _blocks(text: str) -> list[list[str]]:
    blocks: list[list[str]] = []
    block: list[str] = []
    fenced = False
    for line in text.splitlines():
        starts_list = line.startswith("- ") and block and not block[0].startswith("- ")
        if not fenced and block and (not line.strip() or starts_list or block[0][0] == "#"):
            blocks.append(block)
            block = []
        if not fenced and not line.strip():
            continue
        if line.startswith("```"):
            fenced = not fenced
        block.append(line)
    return [*blocks, block] if block else blocks


_INLINE = re.compile(
    r"""\\(?P<sign>[!-/:-@\[-`{-~])
    | `(?P<code>[^`]+)`
    | \[(?P<label>(?:\\.|[^\]\\])+)\]\((?P<url>https?://[^)\s"]+)\)
    | (?<!\w)\*(?P<stressed>(?:\\.|[^*\\])+)\*(?!\w)""",
    re.X,
)


def _text(line: str) -> str:
    found, end = "", 0
    for match in _INLINE.finditer(line):
        found += _entities(line[end : match.start()])
        end = match.end()
        if match["sign"]:
            found += html.escape(match["sign"], quote=False)
        elif match["code"]:
            found += f"<code>{html.escape(match['code'], quote=False)}</code>"
        elif match["url"]:
            found += f'<a href="{html.escape(match["url"])}">{_text(match["label"])}</a>'
        else:
            found += f"<em>{_text(match['stressed'])}</em>"
    return found + _entities(line[end:])


def _entities(text: str) -> str:
    """Text as HTML, in which Markdown's entities are those of HTML."""
    return html.escape(html.unescape(text), quote=False)


def _table(lines: Sequence[str]) -> str:
    rows = [
        [_text(cell.strip()) for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        for line in lines
    ]
    head = "".join(f"<th>{cell}</th>" for cell in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows[2:]
    )
    return (
        f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _list(lines: Sequence[str]) -> str:
    items: list[str] = []
    for line in lines:
        if line.startswith("- "):
            items.append(_text(line[2:]))
        else:
            items[-1] += "<br>" + _text(line.strip().removeprefix("> "))
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"
