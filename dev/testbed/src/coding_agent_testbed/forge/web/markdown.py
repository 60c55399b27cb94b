"""Markdown as the forges show it, as far as issues and comments here use it. Pure.

Everything is escaped; what becomes HTML is only what this module writes itself: paragraphs, lists,
headings, quotations, tables, fences, inline code, bold, links to http addresses, `<sub>` and `<details>`. Of
anything else the text is shown.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from markupsafe import Markup, escape

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})[^`]*")
_HEADING = re.compile(r" {0,3}(#{1,6})\s+(.+?)\s*#*\s*")
_BULLET = re.compile(r"\s{0,3}(?:[-*+]|(\d{1,9})[.)])\s+(.*)")
_QUOTED = re.compile(r" {0,3}> ?(.*)")
_ROW = re.compile(r" {0,3}\|(.*)\|\s*")
_RULE = re.compile(r" {0,3}\|(?:\s*:?-+:?\s*\|)+\s*")
_DETAILS = re.compile(r"<details>(?:<summary>(.*)</summary>)?")
_INLINE = re.compile(
    r"(?P<ticks>`+)(?P<code>.+?)(?<!`)(?P=ticks)(?!`)"
    r"|\*\*(?P<bold>[^*\n]+)\*\*"
    r"|\[(?P<text>[^\[\]\n]+)\]\((?P<to>https?://[^\s()<>]+)\)"
    r"|(?P<url>https?://[^\s<>()]*[^\s<>().,;:!?'\"*])"
    r"|(?P<sub></?sub>)",
    re.DOTALL,
)


def rendered(markdown: str) -> Markup:
    """The text as HTML that is safe to put into a page."""
    return Markup("\n").join(_blocks(markdown.splitlines()))


def _blocks(lines: list[str]) -> Iterator[Markup]:
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if fence := _FENCE.fullmatch(line):
            end = next((n for n in range(at, len(lines)) if _closes(lines[n], fence[1])), len(lines))
            yield Markup("<pre><code>{}</code></pre>").format("\n".join(lines[at:end]))
            at = end + 1
        elif _QUOTED.fullmatch(line):
            end = next((n for n in range(at, len(lines)) if not _QUOTED.fullmatch(lines[n])), len(lines))
            inside = [found[1] for entry in lines[at - 1 : end] if (found := _QUOTED.fullmatch(entry))]
            yield Markup("<blockquote>{}</blockquote>").format(Markup("\n").join(_blocks(inside)))
            at = end
        elif _ROW.fullmatch(line) and at < len(lines) and _RULE.fullmatch(lines[at]):
            end = next((n for n in range(at, len(lines)) if not _ROW.fullmatch(lines[n])), len(lines))
            yield _table(line, lines[at + 1 : end])
            at = end
        elif heading := _HEADING.fullmatch(line):
            yield Markup("<h{0}>{1}</h{0}>").format(min(6, len(heading[1]) + 2), _inline(heading[2]))
        elif details := _DETAILS.fullmatch(line.strip()):
            yield Markup("<details><summary>{}</summary>").format(_inline(details[1] or "Details"))
        elif line.strip() == "</details>":
            yield Markup("</details>")
        elif first := _BULLET.fullmatch(line):
            end = next((n for n in range(at, len(lines)) if not _in_list(lines[n])), len(lines))
            yield _list(lines[at - 1 : end], ordered=first[1] is not None)
            at = end
        elif line.strip():
            end = next((n for n in range(at, len(lines)) if _ends_paragraph(lines[n])), len(lines))
            # Both forges break lines in comments where the author did.
            yield Markup("<p>{}</p>").format(Markup("<br>\n").join(_inline_lines(lines[at - 1 : end])))
            at = end


def _closes(line: str, fence: str) -> bool:
    mark = line.strip()
    return len(mark) >= len(fence) and set(mark) == {fence[0]}


def _in_list(line: str) -> bool:
    return bool(_BULLET.fullmatch(line)) or (line.startswith("  ") and bool(line.strip()))


def _ends_paragraph(line: str) -> bool:
    return not line.strip() or any(
        pattern.fullmatch(line.strip()) for pattern in (_FENCE, _HEADING, _QUOTED, _BULLET, _DETAILS)
    )


def _list(lines: list[str], *, ordered: bool) -> Markup:
    entries: list[str] = []
    for line in lines:
        if found := _BULLET.fullmatch(line):
            entries.append(found[2])
        else:
            entries[-1] += f" {line.strip()}"
    tag = "ol" if ordered else "ul"
    rows = Markup("").join(Markup("<li>{}</li>").format(_inline(entry)) for entry in entries)
    return Markup("<{0}>{1}</{0}>").format(tag, rows)


def _table(head: str, rows: list[str]) -> Markup:
    def row(line: str, tag: str) -> Markup:
        found = _ROW.fullmatch(line)
        cells = re.split(r"(?<!\\)\|", found[1]) if found is not None else []
        texts = (_inline(cell.strip().replace("\\|", "|")) for cell in cells)
        return Markup("<tr>{}</tr>").format(
            Markup("").join(Markup("<{0}>{1}</{0}>").format(tag, text) for text in texts)
        )

    return Markup("<table>{}</table>").format(
        Markup("").join([row(head, "th"), *(row(line, "td") for line in rows)])
    )


def _inline_lines(lines: list[str]) -> list[Markup]:
    return _inline("\n".join(line.strip() for line in lines)).split("\n")


def _inline(text: str) -> Markup:
    parts, at = [Markup("")], 0
    for found in _INLINE.finditer(text):
        parts += [_plain(text[at : found.start()]), _piece(found)]
        at = found.end()
    return Markup("").join([*parts, _plain(text[at:])])


def _piece(found: re.Match[str]) -> Markup:
    if found["code"] is not None:
        return Markup("<code>{}</code>").format(found["code"].strip())
    if found["bold"] is not None:
        return Markup("<b>{}</b>").format(_inline(found["bold"]))
    if found["sub"] is not None:
        return Markup(found["sub"])
    to = found["to"] or found["url"]
    return Markup('<a href="{}" rel="nofollow">{}</a>').format(to, _plain(found["text"] or to))


def _plain(text: str) -> Markup:
    # Markdown knows HTML's entities; escaping comes last, so that they stay text.
    return escape(html.unescape(text))
