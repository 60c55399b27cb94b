"""What the pages show, worked out. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from coding_agent_forge.model import Item, Kind, Label, Repository

_HIDDEN = re.compile(r"<!--.*?-->\s*", re.DOTALL)
_REFERENCE = re.compile(r"(?<![\w&])([#!])(\d{1,9})\b")


@dataclass(frozen=True)
class DiffLine:
    """A line of a diff; `kind` is its CSS class."""

    kind: str
    text: str


def diff_lines(diff: str) -> list[DiffLine]:
    """A unified diff, line by line."""
    return [DiffLine(_kind(line), line) for line in diff.splitlines()]


def _kind(line: str) -> str:
    if line.startswith(("diff ", "index ", "--- ", "+++ ", "new file", "deleted file")):
        return "file" if line.startswith("diff ") else "hunk"
    if line.startswith("@@"):
        return "hunk"
    return {"+": "added", "-": "removed"}.get(line[:1], "same")


def visible(markdown: str) -> str:
    """Markdown without its HTML comments, which no forge shows."""
    return _HIDDEN.sub("", markdown)


def emoji(name: str) -> str:
    """A reaction as people see it."""
    return {"eyes": "\N{EYES}", "+1": "\N{THUMBS UP SIGN}", "thumbsup": "\N{THUMBS UP SIGN}"}.get(
        name, f":{name}:"
    )


def chip_style(label: Label) -> str:
    """Colours of a label: dark letters on light, light ones on dark."""
    color = label.color if re.fullmatch("[0-9a-fA-F]{6}", label.color) else "ededed"
    red, green, blue = (int(color[start : start + 2], 16) for start in (0, 2, 4))
    ink = "#1c2128" if (red * 299 + green * 587 + blue * 114) / 1000 > 140 else "#ffffff"
    return f"background:#{color};color:{ink}"


def linked(repository: Repository, item: Item, *, change_mark: str) -> Sequence[Item]:
    """Items of the other kind that mention this one in their text, or that it mentions."""
    return [
        other
        for other in repository.items
        if other.kind is not item.kind
        if _mentions(item, other, change_mark) or _mentions(other, item, change_mark)
    ]


def _mentions(item: Item, other: Item, change_mark: str) -> bool:
    mark = change_mark if other.kind is Kind.CHANGE else "#"
    texts = [item.title, item.body, *(comment.body for comment in item.comments)]
    return any((mark, str(other.number)) in _REFERENCE.findall(visible(text)) for text in texts)
