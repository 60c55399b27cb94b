"""The line in a commit's message that says whose finished work the commit is. Pure.

An attempt can be killed after its push and before its report. Only the commit survives that, so it tells the
next attempt, which then asks no model. People read commits, and a forge acts on some words in them: the line
has only ids, hashes and times.

Whoever may push could write such a line. So it has a signature of the line and of the commit's files, by the
key of our comments (docs/decisions/0040): a copy in another commit proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from coding_agent_core.task.attempts import Outcome
from coding_agent_core.task.reasons import Reason

_START = "Coding-Agent-Work: "
_SIGNATURE = " sha256="


@dataclass(frozen=True)
class PushedCommit:
    """A commit of the work branch.

    Attributes:
        tree: the id of its files.
        message: the whole message. The agent's summary in it is quoted, so none of its lines is a mark.
    """

    id: str
    tree: str
    message: str


@dataclass(frozen=True)
class WorkMark:
    """The mark of the finished work of one task.

    Attributes:
        name: the name of the work, without a space. Another task's work has another name.
        sign: returns the signature of a text; empty if there is no key.
        proves: whether a text has this signature; `None` if there is no key.
    """

    name: str
    sign: Callable[[str], str]
    proves: Callable[[str, str], bool | None]

    def line(self, tree: str, told: str = "") -> str:
        """Return the line for the message of a commit with these files; empty if it could tell nothing.

        Args:
            told: what the next attempt must know, on one line.
        """
        text = f"{_START}{self.name} {told}".rstrip()
        signature = self.sign(_signed(text, tree))
        if not signature:
            return text if told else ""
        return f"{text}{_SIGNATURE}{signature}"

    def told_in(self, commit: PushedCommit) -> Iterator[tuple[str, bool | None]]:
        """Yield what a commit's lines of this work tell, and whether they are proven to be ours.

        Lines with a wrong signature are left out. Without a key, nothing is proven (`None`).
        """
        # `splitlines` would also split a line at characters that a summary can contain.
        for line in commit.message.split("\n"):
            text, _, signature = line.rpartition(_SIGNATURE) if _SIGNATURE in line else (line, "", "")
            name, _, told = text.removeprefix(_START).partition(" ")
            if not text.startswith(_START) or name != self.name:
                continue
            proven = self.proves(_signed(text, commit.tree), signature)
            if proven is not False:
                yield told, proven


def _signed(text: str, tree: str) -> str:
    return f"{text} {tree}"


def outcome_of(commit: PushedCommit) -> Outcome:
    """Return the outcome of the attempt that made the commit of its finished work."""
    lines = commit.message.splitlines()
    # `commit_message` quotes the summary. If it is only one sentence, it is the subject.
    summary = "\n".join(line[1:].removeprefix(" ") for line in lines if line.startswith(">"))
    return Outcome(
        reason=Reason.COMPLETED,
        message="An earlier attempt has pushed its work.",
        summary=summary or lines[0],
        commit=commit.id,
    )
