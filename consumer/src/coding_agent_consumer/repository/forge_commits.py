"""Publishes the work as commits that the forge makes and signs, instead of pushing it.

The forge gets the files of a commit, and not the commit itself. So the commit on the branch has another id
than the one in the agent's clone, and its parent and its files show that it is the same work.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from coding_agent_core.errors import ForgeError, ForgeUnavailableError, SettingsError
from coding_agent_forges.rest.signed_commits import FileChanges, SignedCommits

from coding_agent_consumer.repository.commits import ChangedFile, InvalidPatchError, parse_changes
from coding_agent_consumer.repository.first_fetch import FETCH
from coding_agent_consumer.repository.git import Git
from coding_agent_consumer.repository.git_errors import BranchGoneError, RemoteMovedError

_logger = logging.getLogger("coding_agent.publisher")
MAX_CONTENT = 10 * 1024 * 1024
"""Bytes of all new and changed files of one commit. GitHub documents no limit; this much is sent, a third
larger as base64, within the time that one request may take."""
_ABSENT = "000000"
_ORDINARY = "100644"
_KINDS = {"100755": "an executable file", "120000": "a symbolic link", "160000": "a submodule"}
_SETTING = "(`consumer.commits.sign: github`)"
NOTE = (
    "\n\n# Kinds of files\n\nHere you can add, change and delete ordinary files. Your work cannot be taken "
    "over if it adds or changes an executable file or a symbolic link, or makes a file executable. If the "
    "task needs this, say so instead."
)
"""A text for the prompt."""


def why_not_sent(changed: ChangedFile) -> str | None:
    """Return why a commit that the forge makes cannot change a file in this way; `None` if it can.

    The mutation `createCommitOnBranch` has no field for a file's mode, and GitHub does not document the mode
    of a file whose contents it replaces. So only ordinary files that stay ordinary are sent.
    """
    try:
        changed.path.encode("utf-8")
    except UnicodeEncodeError:
        return f"the name {changed.path!r} is not UTF-8"
    if changed.mode == _ABSENT:
        return None
    for mode, verb in ((changed.mode, "is"), (changed.old_mode, "was")):
        if mode not in (_ABSENT, _ORDINARY):
            return f"{changed.path!r} {verb} {_KINDS.get(mode, f'a file of mode {mode}')}"
    return None


@dataclass
class ForgeCommits:
    """Brings the work branch of one clone to the forge.

    Attributes:
        git: the agent's clone.
        exists: whether the forge has the branch.
        head: the commit that the branch on the forge must be at; for a branch that does not exist yet, the
            commit from which it starts.
    """

    git: Git
    commits: SignedCommits
    branch: str
    exists: bool
    head: str
    _sent: list[str] = field(default_factory=list, init=False)
    """The commits of the clone that requests after `head` were about, until the branch shows one of them."""

    async def check(self, tree: str) -> None:
        """Return if the forge can make a commit with these files after `head`.

        Raises:
            InvalidPatchError: the message names the file that the forge cannot take over, or the largest file
                if together they are too large.
        """
        changed = await self._changed(tree)
        for one in changed:
            if reason := why_not_sent(one):
                raise InvalidPatchError(
                    f"The change cannot be committed: {reason}, and GitHub signs only commits of ordinary "
                    f"files {_SETTING}. Leave this file as it is, or set `sign: key`."
                )
        new = [one for one in changed if one.mode != _ABSENT]
        sizes = [int(size) for size in (await self._contents("--batch-check=%(objectsize)", new)).split()]
        if (total := sum(sizes)) > MAX_CONTENT:
            size, path = max(zip(sizes, (one.path for one in new), strict=True))
            raise InvalidPatchError(
                f"The change cannot be committed: its files have {total / 2**20:.1f} MiB, of which {path!r} "
                f"has {size / 2**20:.1f} MiB, and GitHub is sent {MAX_CONTENT // 2**20} MiB at most "
                f"{_SETTING}. Make the change smaller, or set `sign: key`."
            )

    async def push(self, work: str, push_check: Callable[[], Awaitable[None]]) -> str:
        """Let the forge make one commit with all changes from `head` to `work`, and return that commit.

        It has the message of `work`. If an answer is lost, the branch shows whether the commit was made: the
        forge makes it only if the branch is at `head`, so a repeated request cannot make a second one.

        The commit of a lost request can also appear late:

        1. A request for a commit is cut off, and the branch does not show the commit.
        2. The agent works on, and a second request is about more work.
        3. The forge has made the first commit meanwhile, and so refuses the second.

        So all requests that are in doubt are remembered, and the work is sent again after the first commit.

        Args:
            work: a commit of the clone.
            push_check: called before the branch is changed.

        Raises:
            RemoteMovedError: somebody else has pushed to the branch; nothing was overwritten.
            ForgeError: the commit was not made, or this is not known. `push` can be called again.
            Whatever `push_check` raises.
        """
        if self._sent and await self._made() and await self._tree(self.head) == await self._tree(work):
            return self.head
        await push_check()
        changes = await self._changes(work)
        message = await self.git.local("log", "-1", "--format=%B", work)
        if not self.exists:
            await self.commits.create_branch(self.branch, self.head)
            self.exists = True
        self._sent.append(work)
        try:
            await self.commits.append(self.branch, self.head, message.decode("utf-8", "replace"), changes)
        except ForgeError as error:
            if error.retry_after or not await self._made_despite():
                raise
            if await self._tree(self.head) != await self._tree(work):
                what = f"The branch {self.branch} shows an earlier commit of this task only now."
                raise ForgeUnavailableError(what) from error
            _logger.info("The commit was made although its request failed: %s", error)
            return self.head
        if not await self._made():
            raise ForgeUnavailableError(f"The branch {self.branch} does not show its new commit yet.")
        return self.head

    async def _made(self) -> bool:
        """Whether the forge has made one of the commits that were asked for; then it is the new `head`.

        Raises:
            RemoteMovedError: the branch has another commit after `head`, or was deleted.
            ForgeError: the branch cannot be read.
        """
        reference = f"refs/remotes/origin/{self.branch}"
        try:
            await self.git.remote(FETCH, f"+refs/heads/{self.branch}:{reference}")
        except BranchGoneError as error:
            raise RemoteMovedError(f"Somebody has deleted the branch {self.branch} meanwhile.") from error
        tip = await self.git.local_id("rev-parse", "--verify", f"{reference}^{{commit}}")
        if tip == self.head:
            return False
        wanted = {await self._tree(work) for work in self._sent}
        listed = await self.git.local("rev-list", "--parents", f"{self.head}..{tip}")
        for line in listed.decode("ascii").splitlines():
            commit, *parents = line.split(" ")
            if parents == [self.head] and await self._tree(commit) in wanted:
                self.head = commit
                self._sent.clear()  # the forge makes no other commit after the old head
                return True
        raise RemoteMovedError(
            f"The branch {self.branch} has a commit that is not this task's work; nothing was overwritten."
        )

    async def _made_despite(self) -> bool:
        """Whether a commit was made although its request failed; `False` if the branch cannot be read."""
        try:
            return await self._made()
        except RemoteMovedError:
            raise
        except (ForgeError, SettingsError):
            return False

    async def _changes(self, work: str) -> FileChanges:
        changed = await self._changed(work)
        new = [one for one in changed if one.mode != _ABSENT]
        contents, at = await self._contents("--batch", new), 0
        additions = dict[str, bytes]()
        for one in new:
            start = contents.index(b"\n", at) + 1  # after a line `ID blob SIZE`
            size = int(contents[at:start].rpartition(b" ")[2])
            additions[one.path] = contents[start : start + size]
            at = start + size + 1
        return FileChanges(additions, tuple(one.path for one in changed if one.mode == _ABSENT))

    async def _contents(self, what: str, files: Sequence[ChangedFile]) -> bytes:
        asked = "".join(f"{one.id}\n" for one in files).encode("ascii")
        return await self.git.local("cat-file", what, stdin=asked)

    async def _changed(self, after: str) -> list[ChangedFile]:
        options = ("-r", "-z", "--raw", "--no-renames")
        return parse_changes(await self.git.local("diff-tree", *options, self.head, after))

    async def _tree(self, commit: str) -> str:
        return await self.git.local_id("rev-parse", f"{commit}^{{tree}}")
