"""What a forge executes of the text that people write: commands, mentions, references, keywords. Pure.

By the vendors' documentation: GitLab's *Quick actions* and *Closing issues automatically*, GitHub's *Linking
a pull request to an issue*, *Autolinked references and URLs* and *Skipping workflow runs*. Where versions of
a forge differ, the one that executes more is followed.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

_NOT_COMMANDS = re.compile(
    r"^```.+?\n```$"  # code blocks
    r"|`\n*.+?\n*`"  # inline code
    r"|^<[^>]+?>\n.+?\n</[^>]+?>$"  # HTML
    r"|^>>>.+?\n>>>$",  # quotations of several lines
    re.MULTILINE | re.DOTALL,
)
_COMMAND = re.compile(
    r"^/(close|reopen|merge|approve|request_review|labels?|unlabel|remove_label|title)"
    r"(?: +([^\n]*))?[ \t]*$\n?",
    re.MULTILINE | re.IGNORECASE,
)
_LABEL = re.compile(r'~(?:"([^"\n]+)"|([\w:-]+))')
_MENTION = re.compile(r"(?<![\w`])@([a-z0-9_.][\w.-]*(?:/[\w.-]+)*)", re.IGNORECASE)
_URL = r"https?://[^\s/]+/(?P<url_path>[\w./-]+?)/(?:-/)?(?:issues|pull|merge_requests|work_items)/(?P<url_number>\d{1,9})"
_REFERENCE = (
    r"(?:(?P<path>[\w.-]+(?:/[\w.-]+)+)?[#!](?P<number>\d{1,9})|G[HL]-(?P<short>\d{1,9})|" + _URL + ")"
)
_ANY_REFERENCE = re.compile(rf"(?<![\w&]){_REFERENCE}", re.IGNORECASE)
_CLOSING = re.compile(
    r"\b(?:clos(?:e[sd]?|ing)|fix(?:e[sd]|ing)?|resolv(?:e[sd]?|ing)|implement(?:s|ed|ing)?):?\s+"
    rf"(?:issues?\s+)?{_REFERENCE}",
    re.IGNORECASE,
)
_JIRA = re.compile(r"\b(?i:clos|fix|resolv|implement)\w*:?\s+[A-Z][A-Z0-9_]+-\d+")
_SKIP = re.compile(
    r"\[(?:skip[ _-]ci|ci[ _-]skip|no ci|skip actions|actions skip|skip azurepipelines|azurepipelines skip)\]"
    r"|\*\*\*NO_CI\*\*\*|^skip-checks: ?true",
    re.IGNORECASE | re.MULTILINE,
)
_TAG = re.compile(r"<!--.*?-->|</?[a-z][^>\n]*>", re.IGNORECASE | re.DOTALL)
_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")
_DRAFT = re.compile(r"(?:\s*(?:\[draft\]|\(draft\)|draft:))+\s*", re.IGNORECASE)
_IMAGE = re.compile(r"!\[|<img\b", re.IGNORECASE)


@dataclass(frozen=True)
class Command:
    """A quick action, e.g. `label` with `~bug`."""

    name: str
    argument: str

    @property
    def labels(self) -> list[str]:
        """The labels that it names."""
        return [quoted or plain for quoted, plain in _LABEL.findall(self.argument)]


@dataclass(frozen=True)
class Reference:
    """An item that a text names; `repository` is empty where it is the text's own."""

    repository: str
    number: int


def commands(text: str) -> list[Command]:
    """GitLab's quick actions in a text."""
    return [Command(found[1].lower(), (found[2] or "").strip()) for found in _found_commands(_lines(text))]


def without_commands(text: str) -> str:
    """What GitLab keeps of a text: all but its quick actions."""
    found = _found_commands(_lines(text))
    if not found:
        return text
    kept = _lines(text)
    for command in reversed(found):
        kept = kept[: command.start()] + kept[command.end() :]
    return kept


def closes(text: str) -> list[Reference]:
    """The items that are closed when a change with this description, or a commit with this message, is
    merged."""
    return [_reference(found) for found in _CLOSING.finditer(text)]


def effects(text: str) -> list[str]:
    """All that a forge does with a text beyond showing it, in words."""
    shown = html.unescape(_ESCAPE.sub(r"\1", _TAG.sub("", text)))
    found = [f"executes /{command.name}" for command in commands(text)]
    for seen in {text, shown}:
        found += [f"mentions {name}" for name in _MENTION.findall(seen)]
        found += [f"refers to {match[0]}" for match in _ANY_REFERENCE.finditer(seen)]
        found += [f"closes by {match[0]}" for match in (*_CLOSING.finditer(seen), *_JIRA.finditer(seen))]
        found += [f"skips CI by {match[0]}" for match in _SKIP.finditer(seen)]
    found += [f"hides or renders {match[0]}" for match in _TAG.finditer(text)]
    found += [f"fetches an image by {match[0]}" for match in _IMAGE.finditer(text)]
    return found


def _found_commands(lines: str) -> list[re.Match[str]]:
    hidden = [found.span() for found in _NOT_COMMANDS.finditer(lines)]
    return [
        found
        for found in _COMMAND.finditer(lines)
        if not any(start <= found.start() < end for start, end in hidden)
    ]


def _lines(text: str) -> str:
    """Markdown knows three line ends."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _reference(found: re.Match[str]) -> Reference:
    number = found["number"] or found["short"] or found["url_number"]
    return Reference(found["path"] or found["url_path"] or "", int(number))


_TASK = re.compile(r"^\s*[-*+] \[( |x)\] (.+)$", re.MULTILINE)


def ticked_task(before: str, after: str) -> str:
    """The first task of a list that an edit ticked off; empty if it ticked none."""
    waiting = {text for state, text in _TASK.findall(before) if state == " "}
    return next((text for state, text in _TASK.findall(after) if state == "x" and text in waiting), "")


def is_draft(title: str) -> bool:
    """Whether a merge request with this title is a draft (GitLab's documentation: *Draft merge requests*)."""
    return _DRAFT.match(title) is not None


def without_draft(title: str) -> str:
    """The title without what makes a merge request a draft."""
    return _DRAFT.sub("", title, count=1) if is_draft(title) else title
