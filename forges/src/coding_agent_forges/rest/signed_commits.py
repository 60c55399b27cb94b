"""Commits that a forge makes and signs itself, at the request of a program. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class FileChanges:
    """The file changes of a commit. All files are ordinary ones: no links, and not executable.

    Attributes:
        additions: the whole contents of new and changed files, by path.
        deletions: the paths of deleted files.
    """

    additions: Mapping[str, bytes]
    deletions: tuple[str, ...]


class SignedCommits(Protocol):
    """The interface to make commits in one repository. The token's account is their author."""

    async def create_branch(self, branch: str, commit: str) -> None:
        """Create a branch at a commit. An existing branch is not moved. The call can be repeated.

        Raises:
            ForgeError: the branch was not created, or it is unknown whether it was.
        """

    async def append(self, branch: str, expected: str, message: str, changes: FileChanges) -> None:
        """Make a commit on a branch.

        Args:
            expected: the full id of the commit that the branch must be at; it becomes the commit's parent.
            message: the commit's message; its first line is the headline.

        Raises:
            ForgeError: no commit was made, or it is unknown whether one was; the branch then shows it.
        """
