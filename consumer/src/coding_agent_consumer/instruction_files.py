"""The files in which a repository tells agents how to work on it, as they are in one commit.

`AGENTS.md` (https://agents.md) may stand in any folder, and the one nearest to a file counts for it.
`CLAUDE.md` and `.github/copilot-instructions.md` are read at the root.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from coding_agent_consumer.repository import BareClone, TreeEntry

_AT_ROOT = ("AGENTS.md", "CLAUDE.md", ".github/copilot-instructions.md")
_NESTED_LIMIT = 40
"""Files in folders that are read: those nearest to the root."""
_BYTES_LIMIT = 64 * 1024
"""Bytes of one file; a larger one is not read."""


@dataclass(frozen=True)
class InstructionFile:
    """
    Attributes:
        path: from the repository's root.
    """

    path: str
    text: str

    @property
    def nested(self) -> bool:
        return self.path not in _AT_ROOT


async def instruction_files(repository: BareClone, commit: str) -> tuple[InstructionFile, ...]:
    """Those of a commit: of the root first, then nested ones; each text once."""
    found: list[InstructionFile] = []
    for entry in select(await repository.tree(commit)):
        text = (await repository.blob(entry.id, _BYTES_LIMIT)).decode("utf-8", "replace").strip()
        if text and text not in [file.text for file in found]:
            found.append(InstructionFile(entry.path, text))
    return tuple(found)


def select(entries: Iterable[TreeEntry]) -> list[TreeEntry]:
    """The instruction files among a tree's entries. A symbolic link is left out: what it points to counts."""
    files = {entry.path: entry for entry in entries if entry.is_file}
    nested = [path for path in files if path.endswith("/AGENTS.md")]
    nested.sort(key=lambda path: (path.count("/"), path))
    return [files[path] for path in (*_AT_ROOT, *nested[:_NESTED_LIMIT]) if path in files]
