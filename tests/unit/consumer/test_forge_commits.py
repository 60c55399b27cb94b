"""What becomes of commits that the forge makes, whichever answers are lost: a table."""

from __future__ import annotations

from typing import Any

import pytest
from coding_agent_consumer.repository.forge_commits import ForgeCommits
from coding_agent_consumer.repository.git_errors import RemoteMovedError
from coding_agent_core.errors import ForgeRefusedError, ForgeUnavailableError
from coding_agent_forges.rest.signed_commits import FileChanges

START = "start"


class Branch:
    """A work branch on a forge, and the agent's clone. Commits are named after their parent and work.

    Attributes:
        answers: what becomes of each request: `made`; `lost`, made but not answered; `late`, not answered and
            made only when the next request arrives.
    """

    def __init__(self, *answers: str) -> None:
        self.parents = dict[str, str]()
        self.tip = START
        self.answers = list(answers)
        self._late = list[tuple[str, str]]()
        self._asked = ""

    def commit(self, work: str, parent: str) -> None:
        if self.tip == parent:
            self.tip = f"{parent}/{work}"
            self.parents[self.tip] = parent

    async def append(self, branch: str, expected: str, message: str, changes: FileChanges) -> None:
        for work, parent in self._late:
            self.commit(work, parent)
        if self.tip != expected:
            raise ForgeRefusedError("Expected branch to point to another commit.")
        answer = self.answers.pop(0)
        if answer == "late":
            self._late.append((self._asked, expected))
        else:
            self.commit(self._asked, expected)
        if answer != "made":
            raise ForgeUnavailableError("No answer.")

    async def remote(self, *_: object) -> bytes:
        return b""

    async def local(self, command: str, *arguments: str, **_options: object) -> bytes:
        if command == "log":
            self._asked = arguments[-1]
        if command == "rev-list":
            head, _, tip = arguments[-1].partition("..")
            lines = []
            while tip != head and tip in self.parents:
                lines.append(f"{tip} {self.parents[tip]}\n")
                tip = self.parents[tip]
            return "".join(lines).encode()
        return b""

    async def local_id(self, _: str, *arguments: str) -> str:
        named = arguments[-1].rpartition("^")[0]
        # Clone and branch have the same files after the same work, whatever the commits are called.
        return self.tip if named.startswith("refs/") else named.rpartition("/")[2]


async def permitted() -> None: ...


@pytest.mark.parametrize(
    ("answers", "works", "branch"),
    [
        (["made", "made"], ["a", "b"], "start/a/b"),
        (["lost", "made"], ["a", "b"], "start/a/b"),
        (["late", "made"], ["a", "b"], "start/a/b"),
        (["late", "late", "made"], ["a", "b", "c"], "start/a/c"),
        (["late"], ["a", "a"], "start/a"),
        (["made", "late", "lost"], ["a", "b", "c"], "start/a/b/c"),
    ],
)
async def test_all_work_is_on_the_branch_once(answers: list[str], works: list[str], branch: str) -> None:
    """Each work is pushed once, as a checkpoint is, and the last one until it is there."""
    place: Any = Branch(*answers)
    commits = ForgeCommits(place, place, "b", True, START)
    for work in works[:-1]:
        try:
            await commits.push(work, permitted)
        except ForgeUnavailableError:
            continue
    for _ in range(len(works)):
        try:
            assert await commits.push(works[-1], permitted) == branch
            break
        except ForgeUnavailableError:
            continue
    assert (place.tip, commits.head) == (branch, branch)


@pytest.mark.parametrize("answer", ["made", "late"])
async def test_a_commit_of_somebody_else_is_never_taken_for_ours(answer: str) -> None:
    place: Any = Branch(answer)
    commits = ForgeCommits(place, place, "b", True, START)
    if answer == "late":
        with pytest.raises(ForgeUnavailableError):
            await commits.push("a", permitted)
    place.commit("theirs", START)
    with pytest.raises(RemoteMovedError):
        await commits.push("b", permitted)
    assert place.tip == "start/theirs"
