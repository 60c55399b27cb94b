"""Real bare git repositories, through the `git` program."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from coding_agent_testbed.forge.errors import HttpError
from coding_agent_testbed.forge.model import Tips

GIT_TIMEOUT = 30.0
"""Seconds that one git command may take."""
_BRANCH = re.compile(r"(?![-/.])[A-Za-z0-9._/#@+-]{1,244}", re.ASCII)


def environment() -> dict[str, str]:
    """What git needs, and nothing of this machine's own git configuration."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C.UTF-8",
        "HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_AUTHOR_NAME": "Sandbox",
        "GIT_AUTHOR_EMAIL": "sandbox@localhost",
        "GIT_COMMITTER_NAME": "Sandbox",
        "GIT_COMMITTER_EMAIL": "sandbox@localhost",
    }


def git(repository: Path, *arguments: str, extra: dict[str, str] | None = None) -> str:
    """Run git on a bare repository; its output.

    Raises:
        subprocess.CalledProcessError: git said no.
        subprocess.TimeoutExpired: after `GIT_TIMEOUT` seconds.
    """
    done = subprocess.run(
        ["git", "--git-dir", str(repository), *arguments],
        env={**environment(), **(extra or {})},
        check=True,
        capture_output=True,
        timeout=GIT_TIMEOUT,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout.decode("utf-8", "replace")


_PROTECTION = """#!/bin/sh
# The server names the protected branches and its own refusal: the repository does not know who pushes.
set -f
while read -r old new ref; do
  for pattern in $FORGE_PROTECTED; do
    case "${ref#refs/heads/}" in $pattern) refused=$ref ;; esac
  done
done
[ -z "$refused" ] || { echo "$FORGE_REFUSAL" | sed "s|REF|$refused|" >&2; exit 1; }
"""


def _accept_pushes(repository: Path) -> None:
    git(repository, "config", "http.receivepack", "true")
    hook = repository / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(_PROTECTION)
    hook.chmod(0o755)


def fork(origin: Path, repository: Path) -> None:
    """Make a bare repository with everything that another one holds."""
    repository.parent.mkdir(parents=True, exist_ok=True)
    git(origin, "clone", "--quiet", "--bare", "--no-hardlinks", str(origin), str(repository))
    _accept_pushes(repository)


def set_branch(repository: Path, branch: str, start: str) -> None:
    """Make a branch, or move it, to a commit or another branch."""
    git(repository, "update-ref", f"refs/heads/{branch}", f"{start}^{{commit}}")


def rename_branch(repository: Path, name: str, new_name: str) -> None:
    """Rename a branch; HEAD follows if it is the default branch."""
    git(repository, "branch", "--move", name, new_name)


def create(repository: Path, *, branch: str, files: Path | None, message: str = "Initial commit") -> None:
    """Make a bare repository with one commit: the files of a folder, or an empty README."""
    repository.parent.mkdir(parents=True, exist_ok=True)
    git(repository, "init", "--quiet", "--bare", "--initial-branch", branch, str(repository))
    _accept_pushes(repository)
    with tempfile.TemporaryDirectory(prefix="forge-seed-") as scratch:
        if files is None:
            files = Path(scratch) / "files"
            files.mkdir()
            (files / "README.md").write_text(f"# {repository.stem}\n")
        _commit(repository, branch, files, Path(scratch) / "index", message)


def _commit(repository: Path, branch: str, files: Path, index: Path, message: str) -> None:
    extra = {"GIT_INDEX_FILE": str(index)}
    exclude = Path(repository) / "info" / "exclude"
    exclude.parent.mkdir(exist_ok=True)
    exclude.write_text("__pycache__/\n.git/\n")
    git(
        repository,
        "--work-tree",
        str(files),
        "add",
        "--all",
        "--force",
        "--",
        ":(exclude,glob)**/__pycache__/**",
        extra=extra,
    )
    tree = git(repository, "write-tree", extra=extra).strip()
    commit = git(repository, "commit-tree", tree, "-m", message).strip()
    git(repository, "update-ref", f"refs/heads/{branch}", commit)


def branch_sha(repository: Path, branch: str) -> str | None:
    """The commit at the tip of a branch, `None` if there is no such branch."""
    if not _BRANCH.fullmatch(branch):
        return None
    try:
        return git(repository, "rev-parse", "--verify", "--quiet", f"refs/heads/{branch}^{{commit}}").strip()
    except subprocess.CalledProcessError:
        return None


def folder(repository: Path, branch: str, where: str) -> list[tuple[str, str]] | None:
    """The names in a folder with their kinds, `blob` or `tree`; `None` if there is no such folder."""
    try:
        listed = git(repository, "ls-tree", "-z", f"refs/heads/{branch}:{where}")
    except subprocess.CalledProcessError:
        return None
    entries = (line.split("\t", 1) for line in listed.split("\0") if line)
    return [(name, facts.split()[1]) for facts, name in entries]


def text(repository: Path, branch: str, file: str) -> str | None:
    """The content of a file of text; `None` if there is no such file."""
    try:
        return git(repository, "cat-file", "blob", f"refs/heads/{branch}:{file}")
    except subprocess.CalledProcessError:
        return None


def branches(repository: Path) -> Sequence[str]:
    """Names of all branches."""
    return git(repository, "for-each-ref", "--format=%(refname:short)", "refs/heads").split()


def tips(repository: Path, base: str, head: str, source: Path | None = None) -> Tips:
    """Where both branches of a change are, and what lies between.

    Args:
        source: of the repository that holds `head`, if it is a fork. Its commits are copied, as both vendors
            keep those of a change.

    Raises:
        HttpError: 404 when one of the branches does not exist.
    """
    base_sha, head_sha = branch_sha(repository, base), branch_sha(source or repository, head)
    if base_sha is None or head_sha is None:
        raise HttpError(404, f"branch {base if base_sha is None else head} does not exist")
    if source is not None:
        git(repository, "fetch", "--quiet", "--no-write-fetch-head", str(source), f"refs/heads/{head}")
    commits = int(git(repository, "rev-list", "--count", f"{base_sha}..{head_sha}"))
    stat = git(repository, "diff", "--shortstat", f"{base_sha}...{head_sha}") if commits else ""
    return Tips(
        head_sha=head_sha,
        base_sha=base_sha,
        commits=commits,
        changed_files=_number(stat, "file"),
        additions=_number(stat, "insertion"),
        deletions=_number(stat, "deletion"),
    )


def _number(shortstat: str, noun: str) -> int:
    found = re.search(rf"(\d+) {noun}", shortstat)
    return int(found[1]) if found else 0


@dataclass(frozen=True)
class CommitFacts:
    """A commit; times as git writes ISO 8601."""

    sha: str
    tree: str
    parents: tuple[str, ...]
    author: str
    author_email: str
    authored: str
    committer: str
    committer_email: str
    committed: str
    message: str


def commit_facts(repository: Path, sha: str) -> CommitFacts:
    """What a commit says."""
    fields = ("%H", "%T", "%P", "%an", "%ae", "%aI", "%cn", "%ce", "%cI", "%B")
    said = git(repository, "show", "--no-patch", f"--format={'%x00'.join(fields)}", sha)
    commit, tree, parents, author, author_email, authored, *rest = said.split("\0")
    name, email, committed, message = rest
    return CommitFacts(
        sha=commit,
        tree=tree,
        parents=tuple(parents.split()),
        author=author,
        author_email=author_email,
        authored=authored,
        committer=name,
        committer_email=email,
        committed=committed,
        message=message.strip(),
    )


@dataclass(frozen=True)
class HistoryEntry:
    """A commit in the history of another."""

    parents: tuple[str, ...]
    author_email: str


def history(repository: Path, sha: str) -> list[HistoryEntry]:
    """The newest 100 commits from which this one was made, itself included, the newest first."""
    said = git(repository, "log", "--max-count=100", "--format=%P%x00%ae", sha)
    lines = (line.split("\0") for line in said.splitlines())
    return [HistoryEntry(tuple(parents.split()), email) for parents, email in lines]


def has_commit(repository: Path, sha: str) -> bool:
    """Whether there is a commit of this full id."""
    try:
        git(repository, "cat-file", "-e", f"{sha}^{{commit}}")
    except subprocess.CalledProcessError:
        return False
    return bool(re.fullmatch("[0-9a-f]{40}", sha))


def is_ancestor(repository: Path, ancestor: str, descendant: str) -> bool:
    """Whether all of one commit's history is in another's."""
    try:
        git(repository, "merge-base", "--is-ancestor", ancestor, descendant)
    except subprocess.CalledProcessError:
        return False
    return True


def merged_tree(repository: Path, ours: str, theirs: str) -> str | None:
    """The tree of two commits merged; `None`: they conflict."""
    try:
        return git(repository, "merge-tree", "--write-tree", ours, theirs).split()[0]
    except subprocess.CalledProcessError as error:
        if error.returncode == 1:
            return None
        raise


def merge(repository: Path, branch: str, other: str, message: str) -> str:
    """Merge a commit into a branch with a merge commit; the branch's new tip.

    Raises:
        HttpError: 409 when they conflict, 404 when there is no such branch.
    """
    tip = branch_sha(repository, branch)
    if tip is None:
        raise HttpError(404, f"branch {branch} does not exist")
    tree = merged_tree(repository, tip, other)
    if tree is None:
        raise HttpError(409, f"{other} conflicts with {branch}")
    merged = git(repository, "commit-tree", tree, "-p", tip, "-p", other, "-m", message).strip()
    git(repository, "update-ref", f"refs/heads/{branch}", merged, tip)
    return merged


def check_out(repository: Path, sha: str, folder: Path) -> None:
    """Write the files of a commit into an empty folder."""
    with tempfile.TemporaryDirectory(prefix="forge-index-") as scratch:
        extra = {"GIT_INDEX_FILE": f"{scratch}/index"}
        git(repository, "--work-tree", str(folder), "checkout", "--quiet", sha, "--", ".", extra=extra)


def _named(role: str, name: str, email: str) -> dict[str, str]:
    return {f"GIT_{role}_NAME": name, f"GIT_{role}_EMAIL": email}


def commit_files(
    repository: Path,
    branch: str,
    files: Mapping[str, str],
    message: str,
    author: tuple[str, str] | None = None,
) -> str:
    """Add a commit to a branch that writes these files; its id. A new branch starts from `HEAD`.

    Args:
        author: name and address; without it, those of the sandbox.

    Raises:
        subprocess.CalledProcessError: somebody else has moved the branch meanwhile.
    """
    before = branch_sha(repository, branch)
    tip = before or git(repository, "rev-parse", "HEAD").strip()
    tree = _changed_tree(repository, tip, {name: text.encode() for name, text in files.items()})
    extra = _named("AUTHOR", *author) if author else {}
    made = git(repository, "commit-tree", tree, "-p", tip, "-m", message, extra=extra).strip()
    git(repository, "update-ref", f"refs/heads/{branch}", made, before or "0" * 40)
    return made


def append_commit(
    repository: Path,
    branch: str,
    tip: str,
    additions: Mapping[str, bytes],
    deletions: Sequence[str],
    message: str,
    author: tuple[str, str],
) -> str:
    """Add a commit to a branch as GitHub does for its web pages; its id.

    Args:
        tip: where the branch is.
        author: name and address.

    Raises:
        subprocess.CalledProcessError: the branch is somewhere else, or a deleted file is not there.
    """
    tree = _changed_tree(repository, tip, additions, deletions)
    extra = _named("AUTHOR", *author) | _named("COMMITTER", "GitHub", "noreply@github.com")
    made = git(repository, "commit-tree", tree, "-p", tip, "-m", message, extra=extra).strip()
    git(repository, "update-ref", f"refs/heads/{branch}", made, tip)
    return made


def _changed_tree(
    repository: Path, commit: str, additions: Mapping[str, bytes], deletions: Sequence[str] = ()
) -> str:
    """The tree of a commit after some files were written, none of them executable, and others deleted."""
    with tempfile.TemporaryDirectory(prefix="forge-commit-") as scratch:
        extra = {"GIT_INDEX_FILE": f"{scratch}/index"}
        git(repository, "read-tree", commit, extra=extra)
        for name in deletions:
            git(repository, "cat-file", "-e", f"{commit}:{name}")
            remove = ("update-index", "--force-remove", "--", name)
            git(repository, "--work-tree", scratch, *remove, extra=extra)
        for number, (name, content) in enumerate(additions.items()):
            file = Path(scratch) / str(number)
            file.write_bytes(content)
            blob = git(repository, "hash-object", "-w", str(file)).strip()
            entry = f"100644,{blob},{name}"
            git(repository, "update-index", "--add", "--cacheinfo", entry, extra=extra)
        return git(repository, "write-tree", extra=extra).strip()


def diff(repository: Path, base_sha: str, head_sha: str) -> str:
    """What a change changes, as a unified diff from the merge base."""
    return git(repository, "diff", "--no-color", "--no-ext-diff", f"{base_sha}...{head_sha}")


@dataclass(frozen=True)
class FileChange:
    """How one file differs between two commits.

    Attributes:
        status: git's letter, e.g. `M` or `R`.
        old, new: its paths; the same unless it was renamed.
        diff: from the first `@@` on.
    """

    status: str
    old: str
    new: str
    diff: str

    @property
    def counts(self) -> tuple[int, int]:
        """Lines added and removed."""
        lines = self.diff.splitlines()
        return sum(line[:1] == "+" for line in lines), sum(line[:1] == "-" for line in lines)


@lru_cache(maxsize=512)
def changes(repository: Path, between: str, *, context: int = 3) -> tuple[FileChange, ...]:
    """Every file that differs, renames found.

    Args:
        between: `OLD..NEW`, or `BASE...NEW` from the merge base; of commits, whose answer never changes.
    """
    fields = git(repository, "diff", "-M", "--name-status", "-z", between).split("\0")
    found: list[FileChange] = []
    while len(fields) > 1:
        status, old = fields.pop(0)[0], fields.pop(0)
        new = fields.pop(0) if status == "R" else old
        whole = git(repository, "diff", "-M", f"--unified={context}", between, "--", *{old, new})
        found.append(
            FileChange(status, old, new, whole[whole.find("\n@@ ") + 1 :] if "\n@@ " in whole else "")
        )
    return tuple(found)


def trace(
    repository: Path, old_sha: str, new_sha: str, path: str, lines: Sequence[int]
) -> tuple[str, list[int]] | None:
    """Where lines of a file are in a later commit; `None`: one of them was changed, or the file is gone."""
    differing = changes(repository, f"{old_sha}..{new_sha}", context=0)
    change = next((one for one in differing if one.old == path), None)
    if change is None:
        return path, list(lines)
    if change.status == "D":
        return None
    moved: list[int] = []
    for line in lines:
        shift = 0
        for start, count, more in re.findall(r"^@@ -(\d+)(?:,(\d+))? \+\d+(?:,(\d+))? @@", change.diff, re.M):
            first, gone, come = int(start), int(count or 1), int(more or 1)
            if gone and first <= line < first + gone:
                return None
            if first < line:
                shift += come - gone
        moved.append(line + shift)
    return change.new, moved
