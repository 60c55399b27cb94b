"""Makes foreign text safe to show in Markdown: without control characters, and inert. Pure.

Forges execute text with the rights of the account that wrote it, which is ours. So all text that can reach a
comment, the title or description of a change, or a commit's message goes through `inline`, `quotation` or
`quoted_code`. If text would have an effect, a zero width space after its first characters breaks it but
leaves it readable. Several lines become a quotation, in which no line is a command. The rules of all forges
apply everywhere. The vendors document which text has an effect:

- On one forge: `active_text` and `active_blocks` of its `PlatformFacts`.
- Azure Pipelines: *Skipping CI for individual pushes*. Jira: *Process work items with smart commits*.
- All forges render Markdown first: character references and HTML become text with an effect, or hide it.
  Images are fetched when they are shown, and could send what the model has read to the image's server.
"""

from __future__ import annotations

import re

from coding_agent_core.platforms.registry import FACTS
from coding_agent_core.platforms.text import printable

BREAK = "\u200b"
"""ZERO WIDTH SPACE: it has no width, and belongs to no name, number, keyword or address."""
_ACTIVE = re.compile(
    "|".join(
        (
            r"@(?=\S)",  # mentions, also owner@commit
            r"\#(?=[^\s#])",  # references to items; smart commits: PROJ-1 #close
            r"\[(?=[^\]\n]{0,80}(?:skip|no[ _-]?ci))",  # [skip ci], [ci skip], [no ci], [skip azurepipelines]
            r"\bno_(?=ci\b)",  # ***NO_CI***
            r"&(?=\#?\w{1,40};)",  # character references: &#64; is an @
            r"<(?=[a-z/!?])",  # HTML, its comments, <https://...>
            r"!(?=\[)",  # images
            *(pattern for facts in FACTS.values() for pattern in facts.active_text),
        )
    ),
    re.IGNORECASE,
)
_BLOCK = re.compile(
    "|".join((r"``(?=`)", r"~~(?=~)", *(block for facts in FACTS.values() for block in facts.active_blocks)))
)
"""The beginnings of fences, and of similar blocks of the forges."""


def inline(text: str) -> str:
    """Return the text on one line, for places without quotation: a title, our own sentence, a subject."""
    return _BLOCK.sub(_broken, _plain(" ".join(text.split())))


def quotation(text: str) -> str:
    """Return the text as a Markdown quotation that renders its own Markdown; empty if the text is empty."""
    plain = _plain(text)
    return _quoted(plain.split("\n")) if plain else ""


def quoted_code(text: str) -> str:
    """Return the text as a code block in a quotation. Its Markdown has no effect and cannot end it."""
    lines = [_BLOCK.sub(_broken, line) for line in _plain(text).split("\n")]
    return _quoted(["```", *lines, "```"])


def _plain(text: str) -> str:
    # Invisible characters are removed first, because the text that they separate could then have an effect.
    visible = printable("\n".join(text.expandtabs(4).splitlines()))
    return _ACTIVE.sub(_broken, visible)


def _broken(found: re.Match[str]) -> str:
    return found[0] + BREAK


def _quoted(lines: list[str]) -> str:
    return "\n".join(f"> {line}".rstrip() for line in lines)
