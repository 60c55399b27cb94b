"""The agent's own clone, in which the workspace's work is committed, and from which it is pushed.

The clone is bare, so nothing is ever checked out, and the workspace cannot reach it. The workspace's work
arrives as a patch, which is applied to an index without a work tree: on the agent's side, none of it is ever
written as a file, no link is followed, and no filter runs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from coding_agent_core.errors import ForgeError, SettingsError
from coding_agent_core.forge.values import CommitIdentity
from coding_agent_core.platforms.text import one_line
from coding_agent_core.reporting.comment import is_branch_name
from coding_agent_core.task.environment import ENVIRONMENT_FILE

from coding_agent_consumer.repository.commits import (
    POINTER_LIMIT,
    ChangedFile,
    InvalidPatchError,
    is_pointer,
    lost_files,
    parse_changes,
    require_bounded,
    why_refused,
)
from coding_agent_consumer.repository.first_fetch import FETCH, first_fetch
from coding_agent_consumer.repository.git import Credentials, Git, pack_files, packed
from coding_agent_consumer.repository.git_errors import (
    GitFailedError,
    RepositoryUnusableError,
    branch_gone,
    sha_256_ids,
)
from coding_agent_consumer.repository.work_mark import PushedCommit
from coding_agent_consumer.workspace.framing import Seed

PushCheck = Callable[[str], Awaitable[None]]
"""Returns if the branch of this name may be pushed to; raises if it may not, or if that is not known."""

if TYPE_CHECKING:
    from coding_agent_forges.rest.signed_commits import SignedCommits

    from coding_agent_consumer.repository.forge_commits import ForgeCommits
    from coding_agent_consumer.repository.mirror import Mirror
    from coding_agent_consumer.repository.ssh_signatures import SshSigner

_logger = logging.getLogger("coding_agent.publisher")
_GIT_MEMORY = 512 * 1024 * 1024
"""Bytes that git may need to apply a patch: the patch, and twice what it may unpack to."""
_FOLDER = "040000"
_SHA_1 = 40
"""The digits of an id."""
_PATHS_AT_ONCE = 200
"""The most paths in one git command."""


@dataclass(frozen=True)
class TreeEntry:
    """An entry of a commit, with its `mode` as git writes it and the `id` of its content."""

    mode: str
    id: str
    path: str

    @property
    def is_file(self) -> bool:
        """Whether the entry is neither a link, a submodule nor a folder."""
        return self.mode in ("100644", "100755")


class BareClone:
    """A bare clone with the work branch; `clone` makes it.

    Attributes:
        base: the newest commit of the branch that the work starts from.
        branch: the work branch.
        start_point: the commit that the workspace starts from and that its patches are relative to.
        exists: whether the forge had the work branch already; the start point is then its tip.
        resumed: whether that branch has work that the base does not have.
        tip: the newest commit of the work branch in this clone.
        pushed: the newest commit of the work branch that was pushed; the start point until the first push.
        lease: the commit that the branch on the forge must still have at each push; `None` if a push must
            only be a fast-forward. A fast-forward alone would bring back commits that somebody has removed
            from the branch meanwhile.
        conflicts: the files that were in conflict when `merge` merged; empty without a merge.

    example:
        repository = await BareClone.clone(source, folder, base="main", branch="agent/7", push_check=check)
        await workspace.seed(repository.seed())
        await repository.commit((await workspace.diff()).data, "Fix the parser\\n", author)
        await repository.push()
    """

    def __init__(
        self,
        git: Git,
        push_check: PushCheck,
        base: str,
        branch: str,
        *,
        start_point: str,
        exists: bool,
        resumed: bool,
        forge_commits: ForgeCommits | None,
        packs: Sequence[Path],
    ) -> None:
        self._git = git
        self._push_check = push_check
        self._forge_commits = forge_commits
        self.base = base
        self.branch = branch
        self.start_point = start_point
        self.exists = exists
        self.resumed = resumed
        self.tip = start_point
        self.pushed = start_point
        self.lease: str | None = None
        self.conflicts: tuple[str, ...] = ()
        self._markers: tuple[str, ...] = ()
        self._merging: str | None = None
        self._packs = tuple(packs)
        """The packs with all that the start point needs."""
        self._folders: tuple[str, ...] = ()
        """The folders that the workspace has; empty: all."""

    @staticmethod
    async def clone(
        credentials: Credentials,
        directory: Path,
        *,
        base: str,
        branch: str,
        push_check: PushCheck,
        mirror: Mirror | None = None,
        commits: SignedCommits | None = None,
    ) -> BareClone:
        """Clone the base branch and, if the forge has it, the work branch. This can be repeated.

        Args:
            directory: a folder for the clone alone; the workspace must not see it.
            base: the branch that the work starts from.
            branch: the work branch, which may be the base itself.
            push_check: called before each push.
            mirror: the mirror of the repository, if there is a cache.
            commits: makes the commits on the forge, which signs them; `None`: they are pushed.

        Raises:
            ForgeNotFoundError: there is no such repository.
            BranchGoneError: the repository has no such base branch.
            RepositoryUnusableError: the repository is empty, or its ids are not SHA-1.
            ValueError: a branch name is invalid.
            Otherwise the errors of `Git.remote`.
        """
        for name in (base, branch):
            require_branch_name(name)
        await asyncio.to_thread(directory.mkdir, mode=0o700, parents=True, exist_ok=True)
        git = Git(directory / "repository.git", credentials)
        names = [f"refs/heads/{name}" for name in dict.fromkeys((base, branch))]

        tips = parse_tips(await git.remote(("ls-remote", "--heads"), *names))
        if names[0] not in tips:
            # Two mistakes look alike here: a repository without any commit, and a base branch that is gone.
            if not parse_tips(await git.remote(("ls-remote", "--heads"))):
                raise RepositoryUnusableError(
                    f"{(await credentials('')).url} has no commit yet. Push a first commit, then try again."
                )
            raise branch_gone((await credentials("")).url, base)
        if len(tips[names[0]]) != _SHA_1:
            # A clone takes the format of its origin, and packs with such ids are refused later.
            raise sha_256_ids((await credentials("")).url)
        await first_fetch(git, base, branch, tips, mirror)
        # The fetched commits count, not the listed ones: a branch may have moved in between.
        exists = f"refs/heads/{branch}" in tips
        start = base_commit = await _commit_of(git, f"refs/remotes/origin/{base}")
        if exists:
            start = await _commit_of(git, f"refs/remotes/origin/{branch}")
        # An attempt that was killed between the branch and its first commit leaves a branch without work.
        resumed = exists and (branch == base or not await _contains(git, base_commit, start))
        await git.local("update-ref", f"refs/heads/{branch}", start)
        forge_commits = None
        if commits is not None:
            from coding_agent_consumer.repository.forge_commits import ForgeCommits  # noqa: PLC0415 - rare

            forge_commits = ForgeCommits(git, commits, branch, exists, start)
        return BareClone(
            git,
            push_check,
            base_commit,
            branch,
            start_point=start,
            exists=exists,
            resumed=resumed,
            forge_commits=forge_commits,
            packs=await asyncio.to_thread(pack_files, git),
        )

    async def fetch(self, credentials: Credentials, branch: str) -> str:
        """Fetch a branch of this repository, or of the one that it is a fork of; return its newest commit.

        Raises:
            ValueError: the branch name is invalid.
            Otherwise the errors of `Git.remote`.
        """
        require_branch_name(branch)
        git = replace(self._git, credentials=credentials)
        reference = f"refs/remotes/fetched/{branch}"
        await git.remote(FETCH, f"+refs/heads/{branch}:{reference}")
        return await _commit_of(git, reference)

    async def root(self, commit: str) -> list[TreeEntry]:
        """Return the entries of a commit's root, folders included."""
        return parse_tree(await self._git.local("ls-tree", "-z", "--full-tree", commit))

    async def missing_folders(self, commit: str, folders: Sequence[str]) -> list[str]:
        """Return those of these paths that are not folders of a commit."""
        if not folders:
            return []
        listing = await self._git.local(
            *("ls-tree", "-d", "-z", "--full-tree", commit, "--", *folders),
            env={"GIT_LITERAL_PATHSPECS": "1"},
        )
        there = {entry.path for entry in parse_tree(listing) if entry.mode == _FOLDER}
        return [folder for folder in folders if folder not in there]

    async def named(self, commit: str, *names: str) -> list[TreeEntry]:
        """Return the files and links of a commit with one of these names, in all of its folders."""
        listing = await self._git.local("ls-tree", "-r", "-z", "--full-tree", commit)
        # A repository can have a million files, and only a few of them become objects here.
        ends = tuple(f"{before}{name}".encode() for name in names for before in "/\t")
        return parse_tree(b"\0".join(line for line in listing.split(b"\0") if line.endswith(ends)))

    async def blob(self, id_: str, limit: int) -> bytes | None:
        """Return the content of a file; `None` if it is larger than `limit` bytes."""
        size = int(await self._git.local_id("cat-file", "-s", id_))
        return None if size > limit else await self._git.local("cat-file", "blob", id_)

    def seed(self, folders: Sequence[str] = ()) -> Seed:
        """Return what `Workspace.seed` needs to check out the start point.

        It has the packs as they were fetched, so they may contain more than this commit: other commits of the
        repository's own branches.

        Args:
            folders: the folders to check out; empty: all. Those of files in conflict are added.
        """
        conflicts = {path.rpartition("/")[0] for path in self.conflicts} - {""}
        self._folders = tuple(dict.fromkeys((*folders, *sorted(conflicts)))) if folders else ()
        return Seed(self.branch, self.start_point, self._packs, self._folders)

    async def pack_of(self, commit: str, folder: Path) -> None:
        """Write a pack of exactly a commit with its history into a folder."""
        await packed(self._git, [commit], folder)

    async def contains(self, commit: str) -> bool:
        """Whether a commit is in the history of the work branch, its tip included."""
        return await _contains(self._git, self.start_point, commit)

    async def merge_base(self, commit: str, other: str) -> str | None:
        """Return the newest commit that two commits have in common; `None` if there is none."""
        try:
            return await self._git.local_id("merge-base", commit, other)
        except GitFailedError:
            return None

    async def merge(self, other: str, message: str, author: CommitIdentity) -> tuple[str, ...]:
        """Merge a commit into the work branch, if files are in conflict, and return these files.

        The start point becomes a commit whose files have git's conflict markers. It is never pushed: the
        next `commit` makes the merge, with the tip and `other` as parents. If no file is in conflict, nothing
        changes.

        Args:
            other: a commit that was fetched.

        Raises:
            GitFailedError: git cannot merge, e.g. because the branches have no common commit.
            InvalidPatchError: the forge makes the commits, and it makes no merges.
        """
        if self._forge_commits is not None:
            raise InvalidPatchError(
                "GitHub signs the commits (`consumer.commits.sign: github`), and it signs no merge that "
                "resolves a conflict. Merge the base branch yourself, or set `sign: key`."
            )
        found = await self._git.local(
            *("merge-tree", "--write-tree", "-z", "--name-only", "--no-messages", self.tip, other),
            memory=_GIT_MEMORY,
            expected=(0, 1),
        )
        tree, *paths = found.decode("utf-8", "surrogateescape").split("\0")
        self.conflicts = tuple(filter(None, paths))
        if not self.conflicts:
            return ()
        self._markers = (f"<<<<<<< {self.tip}", f">>>>>>> {other}")
        self._merging = other
        self.start_point = await self._commit_tree(tree, message, author, parents=(self.tip, other))
        folder = self._git.directory / "objects" / "pack"
        await packed(self._git, [self.start_point], folder, but=(self.tip, other))
        self._packs = tuple(await asyncio.to_thread(pack_files, self._git))
        return self.conflicts

    async def commit(
        self,
        patch: bytes,
        message: str | Callable[[str], str],
        author: CommitIdentity,
        signer: SshSigner | None = None,
    ) -> str | None:
        """Commit everything that changed since the start point. Return `None` if the tip has it already.

        This may be called again with a later patch, also relative to the start point. The new commit follows
        the last one. Symbolic links are committed as links, wherever they point: nothing follows them here.
        After `merge`, the first commit is a merge, even if its files are those of the tip.

        Args:
            patch: the patch that `Workspace.diff` returned.
            message: the commit's message, or what returns it for the id of the commit's files.

        Raises:
            InvalidPatchError: the patch is too large, does not apply, touches what it must not, or leaves a
                conflict of `merge`.
        """
        require_bounded(patch)
        tree = await self._apply(patch) if patch.strip() else await self._tree_of(self.start_point)
        if self._merging is None and tree == await self._tree_of(self.tip):
            return None
        # A rename would show one path; each path has to be checked.
        raw = await self._git.local("diff-tree", "-r", "-z", "--raw", "--no-renames", self.start_point, tree)
        changed = parse_changes(raw)
        for one in changed:
            # The patch comes from a workspace that runs foreign code, so every path is checked here.
            reason = why_refused(one.path, one.mode)
            if reason:
                raise InvalidPatchError(f"The change cannot be committed: {reason}.")
        if lost := lost_files(changed, self._folders):
            files = one_line(", ".join(lost), 500)
            raise InvalidPatchError(
                f"The change cannot be committed: it removes {files}, which `checkout` of "
                f"`{ENVIRONMENT_FILE}` leaves out of the workspace."
            )
        if stored := await self._not_uploaded(tree, changed):
            files = one_line(", ".join(stored), 500)
            raise InvalidPatchError(
                f"The change cannot be committed: by `.gitattributes`, {files} would have to be uploaded to "
                "Git LFS, and the agent cannot do that. Leave such files as they are."
            )
        if unresolved := await self._unresolved(tree):
            files = one_line(", ".join(unresolved), 500)
            raise InvalidPatchError(f"These files are still in conflict: {files}.")
        if self._forge_commits is not None:
            await self._forge_commits.check(tree)
        parents = (self.tip,) if self._merging is None else (self.tip, self._merging)
        text = message if isinstance(message, str) else message(tree)
        return await self._advance(tree, text, author, signer, parents=parents)

    async def reword(self, message: str, author: CommitIdentity, signer: SshSigner | None = None) -> None:
        """Replace the message of the tip, which must not have been pushed."""
        tree = await self._tree_of(self.tip)
        parents = (await self._git.local("log", "-1", "--format=%P", self.tip)).decode("ascii").split()
        await self._advance(tree, message, author, signer, parents=parents)

    async def _advance(
        self,
        tree: str,
        message: str,
        author: CommitIdentity,
        signer: SshSigner | None,
        *,
        parents: Sequence[str],
    ) -> str:
        """Make a commit, sign it, and let it be the tip of the work branch."""
        commit = await self._commit_tree(tree, message, author, parents=parents)
        if signer is not None:
            signed = signer.sign(await self._git.local("cat-file", "commit", commit))
            # git signs with a program that its configuration names; writing the object needs none.
            commit = await self._git.local_id("hash-object", "-t", "commit", "-w", "--stdin", stdin=signed)
        # With the old value, git refuses if anything else has moved the branch.
        await self._git.local("update-ref", f"refs/heads/{self.branch}", commit, self.tip)
        self.tip = commit
        self._merging = None
        return commit

    async def _not_uploaded(self, tree: str, changed: Sequence[ChangedFile]) -> list[str]:
        """Return the changed files whose content belongs into Git LFS, by the attributes in a tree.

        A commit has only a pointer to such a content. Git writes it with a filter, and none runs here.
        """
        files = {one.path: one.id for one in changed if one.mode in ("100644", "100755")}
        rules = (
            "grep",
            "-l",
            "-z",
            "-F",
            "-e",
            "filter=lfs",
            tree,
            "--",
            ".gitattributes",
            "*/.gitattributes",
        )
        if not files or not await self._git.local(*rules, expected=(0, 1)):
            return []
        with tempfile.TemporaryDirectory(dir=self._git.directory.parent) as folder:
            env = {"GIT_INDEX_FILE": os.path.join(folder, "index")}
            await self._git.local("read-tree", tree, env=env)
            names = "\0".join(files).encode("utf-8", "surrogateescape")
            asked = ("check-attr", "--cached", "-z", "--stdin", "filter")
            said = (await self._git.local(*asked, stdin=names, env=env)).decode("utf-8", "surrogateescape")
        fields = said.split("\0")
        stored = [path for path, filter_ in zip(fields[::3], fields[2::3], strict=False) if filter_ == "lfs"]
        contents = [(path, await self.blob(files[path], POINTER_LIMIT)) for path in stored]
        return [path for path, content in contents if not is_pointer(content)]

    async def _commit_tree(
        self, tree: str, message: str, author: CommitIdentity, *, parents: Sequence[str]
    ) -> str:
        identity = {
            f"GIT_{role}_{what}": value
            for role in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", author.name), ("EMAIL", author.email))
        }
        # git refuses a message with a NUL, and a model can write anything.
        text = message.replace("\0", "").encode("utf-8", "replace")
        of = [argument for parent in parents for argument in ("-p", parent)]
        return await self._git.local_id("commit-tree", tree, *of, "-F", "-", stdin=text, env=identity)

    async def _unresolved(self, tree: str) -> list[str]:
        """Return the files of a tree that still have conflict markers, or a name that git gave them.

        If a file and a folder want the same name, git appends `~` and a commit to the file's name.
        """
        unresolved: list[str] = []
        given = tuple(f"~{marker.partition(' ')[2]}" for marker in self._markers)
        renamed = [path for path in self.conflicts if path.endswith(given)] if given else []
        for start in range(0, len(renamed), _PATHS_AT_ONCE):
            some = renamed[start : start + _PATHS_AT_ONCE]
            left = await self._git.local(
                "ls-tree", "-r", "--name-only", "-z", "--full-tree", tree, "--", *some
            )
            unresolved += filter(None, left.decode("utf-8", "replace").split("\0"))
        patterns = [argument for marker in self._markers for argument in ("-e", marker)]
        for start in range(0, len(self.conflicts), _PATHS_AT_ONCE):
            listing = await self._git.local(
                *("grep", "-l", "-z", "-a", "--full-name", "--fixed-strings", *patterns, tree, "--"),
                *self.conflicts[start : start + _PATHS_AT_ONCE],
                env={"GIT_LITERAL_PATHSPECS": "1"},
                expected=(0, 1),
            )
            names = listing.decode("utf-8", "replace").split("\0")
            unresolved += [name.partition(":")[2] for name in names if name]
        return unresolved

    async def newest(self, limit: int) -> list[PushedCommit]:
        """Return at most `limit` commits, from the tip along the first parents."""
        options = ("--first-parent", f"--max-count={limit}", "-z", "--format=%H%n%T%n%B")
        shown = await self._git.local("log", *options, self.tip)
        commits = (one.split("\n", 2) for one in shown.decode("utf-8", "replace").split("\0") if one)
        return [PushedCommit(*parts) for parts in commits]

    async def own_patch(self) -> tuple[str, str]:
        """Return the ids of what the work changed itself, and of the reverse (`git patch-id --stable`).

        Changes that a merge brought do not count. The ids are empty if nothing was changed, or only binary
        files.
        """
        if self.tip == self.start_point:
            return "", ""
        return (
            await self._patch_id(self.start_point, self.tip),
            await self._patch_id(self.tip, self.start_point),
        )

    async def _patch_id(self, before: str, after: str) -> str:
        # Attributes and configuration could name programs that change what is compared.
        options = ("-p", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-color")
        difference = await self._git.local("diff-tree", *options, before, after)
        said = await self._git.local("patch-id", "--stable", stdin=difference)
        return said.decode("ascii").partition(" ")[0].strip()

    async def push(self) -> None:
        """Push the work branch, never by force. Nothing else pushes to a forge.

        With `commits` of `clone`, the forge makes the commit, and `tip` becomes the commit that it made.

        If git reports an error, the branch's commit on the forge decides whether the push succeeded:

        1. A push succeeds, but its answer is lost.
        2. libcurl sends the push again.
        3. The forge refuses it because the branch has moved: to our commit.

        With a lease, this can also be the commit of an earlier push that was cut off and succeeded late.

        Raises:
            The errors of the push check and of `Git.remote`. After `RemoteMovedError`, nothing was
                overwritten.
        """
        reference = f"refs/heads/{self.branch}"
        self._git.quiet.require_over()
        if self._forge_commits is not None:
            tip = await self._forge_commits.push(self.tip, lambda: self._push_check(self.branch))
            await self._git.local("update-ref", reference, tip, self.tip)
            self.tip = tip
        else:
            await self._push_check(self.branch)
            await self._push_by_git(reference)
        self.pushed = self.tip
        if self.lease is not None:
            self.lease = self.tip

    async def _push_by_git(self, reference: str) -> None:
        tip = self.tip
        # `--no-verify` skips hooks: our clone has none, and a hook would run with the token.
        command = ["push", "--porcelain", "--no-verify"]
        if self.lease is not None:
            # With a lease, git alone would also replace commits, so that is ruled out first.
            await self._git.local("merge-base", "--is-ancestor", self.lease, tip)
            command.append(f"--force-with-lease={reference}:{self.lease}")
        try:
            await self._git.remote(command, f"{tip}:{reference}")
        except ForgeError as error:
            if error.retry_after:
                raise  # the forge asked for no request now; a push that took effect is repeated without harm
            if not await self._is_on_the_forge(tip):
                ours = await self._pushed_late()
                if ours is None:
                    raise
                self.lease = ours
                await self._push_by_git(reference)
                return
            _logger.info("The push succeeded although git reports: %s", error)

    async def _is_on_the_forge(self, commit: str) -> bool:
        """Whether the forge shows the work branch at this commit; `False` if that cannot be read."""
        return await self._shown_tip() == commit

    async def _pushed_late(self) -> str | None:
        """Return the commit on the forge if it is one of ours after the lease, and otherwise `None`.

        The first parents leave out what a merge of the base brings.
        """
        if self.lease is None:
            return None
        listed = await self._git.local("rev-list", "--first-parent", f"{self.lease}..{self.tip}")
        shown = await self._shown_tip()
        return shown if shown in listed.decode("ascii").split() else None

    async def _shown_tip(self) -> str | None:
        """Return the commit of the work branch on the forge; `None` if there is none, or if it is unknown."""
        name = f"refs/heads/{self.branch}"
        try:
            return parse_tips(await self._git.remote(("ls-remote", "--heads"), name)).get(name)
        except (ForgeError, SettingsError):
            return None

    async def _tree_of(self, commit: str) -> str:
        return await self._git.local_id("rev-parse", f"{commit}^{{tree}}")

    async def _apply(self, patch: bytes) -> str:
        with tempfile.TemporaryDirectory(dir=self._git.directory.parent) as folder:
            env = {"GIT_INDEX_FILE": os.path.join(folder, "index")}
            # A bare repository has no index; this one lives as long as the patch is applied.
            await self._git.local("read-tree", self.start_point, env=env)
            try:
                apply = ("apply", "--cached", "--binary", "-")
                await self._git.local(*apply, stdin=patch, env=env, memory=_GIT_MEMORY)
                return await self._git.local_id("write-tree", env=env)
            except GitFailedError as error:
                raise InvalidPatchError(f"The workspace's change cannot be applied: {error}") from error


async def _contains(git: Git, tip: str, commit: str) -> bool:
    """Whether a commit is in the history that ends with `tip`."""
    try:
        await git.local("merge-base", "--is-ancestor", commit, tip)
    except GitFailedError:
        return False
    return True


async def _commit_of(git: Git, reference: str) -> str:
    return await git.local_id("rev-parse", "--verify", f"{reference}^{{commit}}")


def parse_tree(listing: bytes) -> list[TreeEntry]:
    """Return the entries that `git ls-tree -z` listed."""
    entries: list[TreeEntry] = []
    for line in listing.decode("utf-8", "surrogateescape").split("\0"):
        head, tab, path = line.partition("\t")
        if tab:
            mode, _, id_ = head.split(" ")
            entries.append(TreeEntry(mode, id_, path))
    return entries


def parse_tips(listing: bytes) -> dict[str, str]:
    """Return the commit of each reference that `git ls-remote` listed."""
    lines = (line.partition("\t") for line in listing.decode("utf-8", "replace").splitlines())
    return {name: commit for commit, tab, name in lines if tab}


def require_branch_name(name: str) -> None:
    """Check the name of a branch.

    Raises:
        ValueError: a branch cannot have this name.
    """
    if not is_branch_name(name):
        raise ValueError(f"{name[:80]!r} is not a branch name.")
