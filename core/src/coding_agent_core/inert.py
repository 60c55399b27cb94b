"""Makes text of a model or a stranger inert: a forge shows it, and executes nothing of it.

Forges execute text with the rights of the account that wrote it, which is ours. Everything that can reach a
comment, the title or description of a change, or a commit's message goes through this module. A zero width
space behind the first characters of whatever has an effect breaks it and leaves it readable; several lines
become a quotation, in which no line is a command. What has an effect, by the vendors' documentation:

- GitHub: *Autolinked references and URLs*, *Linking a pull request to an issue*, *Skipping workflow runs*.
- GitLab: *Quick actions* (a line that starts with `/`; not in quotations), *GitLab Flavored Markdown*
  (references, `>>>`), *Closing issues automatically* (which also knows keys of Jira), *Skip a pipeline*.
- Azure Pipelines: *Skipping CI for individual pushes*. Jira: *Process work items with smart commits*.
- Both render Markdown first: character references and HTML become text that counts, or hide it. Images are
  fetched when they are shown, and could carry what the model has read to the image's server.

Pure.
"""

from __future__ import annotations

import re

from coding_agent_core.text import printable

BREAK = "\u200b"
"""ZERO WIDTH SPACE: it has no width, and belongs to no name, number, keyword or address."""
_ACTIVE = re.compile(
    r"""
      @ (?=\S)                                        # mentions, also owner@commit
    | \# (?=[^\s#])                                   # references to items; smart commits: PROJ-1 #close
    | \b G[HL]- (?=\d)                                # GH-1, GL-1
    | [!&$%] (?=\d)                                   # merge request, epic, snippet, milestone
    | \[ (?=[a-z_]+:)                                 # [work_item:1]
    | / (?:issues|pulls?|merge_requests|work_items|epics|discussions|incident) / (?=\d)
    | \b (?:clos|fix|resolv|implement) [a-z]{0,3} :? \s+ (?=[a-z][a-z0-9_]+-\d)  # Closes PROJ-1
    | \[ (?=[^\]\n]{0,80}(?:skip|no[ _-]?ci))         # [skip ci], [ci skip], [no ci], [skip azurepipelines]
    | \b no_ (?=ci\b)                                 # ***NO_CI***
    | \b skip- (?=checks)                             # skip-checks: true
    | & (?=\#?\w{1,40};)                              # character references: &#64; is an @
    | < (?=[a-z/!?])                                  # HTML, its comments, <https://...>
    | ! (?=\[)                                        # images
    """,
    re.IGNORECASE | re.VERBOSE,
)
_BLOCK = re.compile(r"`` (?=`) | ~~ (?=~) | >> (?=>) | ^ (?=/)", re.VERBOSE)
"""Fences, GitLab's multiline quotations, and a line that would be a command."""


def inline(text: str) -> str:
    """The text on one line, for a place that quotes nothing: a title, a sentence of ours, a subject."""
    return _BLOCK.sub(_broken, _plain(" ".join(text.split())))


def quotation(text: str) -> str:
    """The text as a quotation in Markdown; its own Markdown is rendered inside. Empty if the text is."""
    plain = _plain(text)
    return _quoted(plain.split("\n")) if plain else ""


def quoted_code(text: str) -> str:
    """The text as it is, in a quotation: no Markdown in it is rendered, and it cannot end its block."""
    lines = [_BLOCK.sub(_broken, line) for line in _plain(text).split("\n")]
    return _quoted(["```", *lines, "```"])


def _plain(text: str) -> str:
    # Invisible characters go first: without them, what they separated would have an effect.
    visible = printable("\n".join(text.expandtabs(4).splitlines()))
    return _ACTIVE.sub(_broken, visible)


def _broken(found: re.Match[str]) -> str:
    return found[0] + BREAK


def _quoted(lines: list[str]) -> str:
    return "\n".join(f"> {line}".rstrip() for line in lines)
