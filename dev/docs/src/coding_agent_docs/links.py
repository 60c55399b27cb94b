"""Checks the relative links of Markdown pages by GitHub's rules. The site's builder checks its own too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

_LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)(?:\s+\"[^\"]*\")?\)")
_FENCED = re.compile(r"^(?P<ticks>`{3,}).*?^(?P=ticks)\s*$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,6}\s+(?P<title>.+?)\s*#*\s*$", re.MULTILINE)
_CODE = re.compile(r"`[^`\n]*`")


def dead_links(page: Path) -> Iterator[str]:
    """Yield the target of each relative link whose file or heading does not exist."""
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    for match in _LINK.finditer(_CODE.sub("", text)):
        target = match["target"]
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            yield target


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, by GitHub's rule; a repeated one gets `-1`, `-2`, …"""
    found: set[str] = set()
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    for match in _HEADING.finditer(text):
        slug = slug_of(match["title"])
        number, unique = 0, slug
        while unique in found:
            number += 1
            unique = f"{slug}-{number}"
        found.add(unique)
    return found


def slug_of(title: str) -> str:
    """Return GitHub's anchor of a heading: in lower case, without punctuation, with hyphens for blanks."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
