"""The repository in the workspace: seeded from packs, compared with it, listed and searched.

Git has no more rights here than the commands, so commands gain nothing by files that they plant in the tree.
A repository next to the tree holds the seeded commit. The tree's own `.git` is for the commands; they can
commit to it, reset it or delete it, and no work is lost.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from coding_agent_consumer.workspace.files import (
    FILE_SECONDS,
    WorkspaceFolders,
    cut_end,
    deadline,
    move_untracked,
    remove,
    replace_file,
    resolve,
    special_files,
)
from coding_agent_consumer.workspace.framing import (
    MAX_FILE,
    MAX_NAME,
    MAX_NAMES,
    MAX_PATCH,
    MAX_UNPACKED,
    Patch,
    RequestError,
)
from coding_agent_consumer.workspace.processes import CommandRunner

_GIT_TIMEOUT = 300.0
_SEARCH_TIMEOUT = 30.0
"""Seconds for a search; short because the model waits for the answer."""
_MAX_FILES = 2000
_MAX_MATCHES = 300
_MAX_LINE = 300
_MAX_LISTING = 8 * 1024 * 1024
_SEED = "refs/workspace/seed"
_GITLINK = "160000"
_NOTHING = "000000"
"""The mode of a file that is not there."""
_GENERATED_FILES = (
    *("__pycache__/", "*.py[co]", ".pytest_cache/", ".mypy_cache/", ".ruff_cache/", ".hypothesis/"),
    *(".tox/", ".nox/", ".venv/", "*.egg-info/", "node_modules/", ".gradle/", ".DS_Store"),
)
"""Files that test runs generate and nobody commits, for repositories whose `.gitignore` does not name them.
Only untracked files are ignored: a tracked file counts, whatever its name is."""
_READ_BY_GIT = (".gitignore", ".gitattributes", ".gitmodules")
_ELSEWHERE_SECONDS = 60.0
"""The search for work outside the tree may take this long."""
_MOST_BRANCHES = 10
"""Work is searched for in this many branches (the newest first) and worktrees."""
_PATHS_AT_ONCE = 200
"""The most paths in one git command."""
_FOUND = "refs/workspace/found"
_HEADS = "refs/heads/"
_STASH = "refs/stash"
_TOO_MUCH = f"More than {MAX_PATCH // 2**20} MiB changed; remove files that do not belong to it."
_QUIET = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.quotePath=false")


class _TooMuchError(RequestError):
    """A git command wrote more than we accept."""


@dataclass(frozen=True)
class _Blob:
    """A file in a git tree, with its `mode` as git writes it."""

    mode: str
    id: str
    size: int


class Tree:
    def __init__(
        self, folders: WorkspaceFolders, commands: CommandRunner, env: Mapping[str, str], program: str = "git"
    ) -> None:
        self._folders = folders
        self._commands = commands
        self._program = program
        self._config = _seeded_config(folders)
        self._give_up = math.inf
        self._env = {
            **env,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_ALLOW_PROTOCOL": "file",
            "GIT_LITERAL_PATHSPECS": "1",
            "LC_ALL": "C.UTF-8",
        }

    def seed(self, packs: Path, branch: str, commit: str, only: Sequence[str] = ()) -> None:
        """Create the repository from packs with their indexes, and check out a commit as a branch.

        Args:
            packs: the folder of the packs, which are moved out of it.
            only: the folders to check out, besides the files at the root; empty: all.

        Raises:
            RequestError: the workspace is seeded already, or the packs do not have all of the commit.
        """
        folders = self._folders
        if folders.git.exists():
            raise RequestError("The workspace has been seeded already.")
        try:
            self._git("init", "--quiet", "--bare", str(folders.git), bare=False)
            for file in sorted(packs.iterdir()):
                file.rename(folders.git / "objects" / "pack" / file.name)
            reference = f"refs/heads/{branch}"
            for name in (reference, _SEED):
                self._git("update-ref", name, commit)
            self._git("symbolic-ref", "HEAD", reference)
            if only:
                _check_out_only(folders.git, only)
            self._config = (folders.git / "config").read_bytes()
            self._git("reset", "--quiet", "--hard", _SEED)
            copy = folders.root / "copy"
            # The commands get their own repository; objects are shared by hard links.
            clone = ("clone", "--quiet", "--no-checkout", "--branch", branch)
            self._git(*clone, str(folders.git), str(copy), bare=False)
            shutil.move(copy / ".git", folders.tree / ".git")
            copy.rmdir()
            own = ("--git-dir", str(folders.tree / ".git"), "--work-tree", str(folders.tree))
            # The commands' clone must not show where our repository is.
            self._git(*own, "remote", "remove", "origin", bare=False)
            _write_exclude(folders.tree / ".git")
            if only:
                _check_out_only(folders.tree / ".git", only)
            # It describes the same files. Git would read all of them to make another one.
            shutil.copyfile(folders.git / "index", folders.tree / ".git" / "index")
            # This file comes last: a seed that was cut off is not taken for a whole one.
            replace_file(folders.seeded, self._config)
        except RequestError:
            remove(folders.git)
            raise

    def restore(self, packs: Path, branch: str, commit: str, only: Sequence[str] = ()) -> None:
        """Check out a commit anew, as `seed` does, and keep only files that it does not track.

        Commands can have changed everything, the repositories and their indexes too. So none of it is used:
        the tree is a new checkout, and what only the old one has is moved into it.

        Raises:
            RequestError: the packs do not have all of the commit.
            OSError: a folder that commands made cannot be moved.
        """
        folders = self._folders
        before = folders.root / "before"
        for path in (before, folders.git, folders.seeded, folders.root / "copy"):
            remove(path)
        os.rename(folders.tree, before)
        folders.make()
        self.seed(packs, branch, commit, only)
        move_untracked(before, folders.tree)
        remove(before)

    def diff(self) -> Patch:
        """Return all changes since the seed, without repositories created inside the tree.

        Raises:
            RequestError: the workspace is not seeded, the patch is too large, or a special file has the name
                of one that git reads.
        """
        self._require_seed()
        tree = self._folders.tree
        # No other git runs now, so a lock was left by a git that was killed.
        (self._folders.git / "index.lock").unlink(missing_ok=True)
        found = self._patch_of_index(self._stage(tree))
        return found if found.data or found.left_out else self._elsewhere() or found

    def _stage(self, folder: Path) -> dict[bytes, int]:
        """Put a folder's files into the index. Return the sizes of files that are too large for this."""
        with deadline(FILE_SECONDS):
            special = next(special_files(folder, names=_READ_BY_GIT), None)
        if special is not None:
            path = cut_end(os.path.relpath(special, folder), 200)
            raise RequestError(f"{path} is not a regular file, and git would wait for it: remove it.")
        tracked, others = self._changed_files(folder)
        changed, new = _large(folder, tracked), _large(folder, others)
        small = [name for name in (*tracked, *others) if name not in changed and name not in new]
        if not small:
            return {**new, **changed}
        kept = [os.fsdecode(name) for name in changed]
        try:
            # git leaves such files alone, so a large one is not read.
            self._update_index("--skip-worktree", kept)
            if not self._added(folder, small):
                # A name may have a line break, so it cannot stand in a file of patterns to ignore.
                self._add(folder, [b".", *(b":(exclude,literal)" + name for name in new)], literal=False)
        finally:
            self._update_index("--no-skip-worktree", kept)
        return {**new, **changed}

    def _changed_files(self, folder: Path) -> tuple[list[bytes], list[bytes]]:
        """Return the tracked files that differ from the index, and the untracked ones, in one pass."""
        listing = self._git(
            *("status", "--porcelain=v1", "-z", "--no-renames", "--untracked-files=all"),
            "--ignore-submodules=all",
            folder=folder,
            limit=MAX_PATCH,
            too_much=_TOO_MUCH,
        )
        tracked, others = list[bytes](), list[bytes]()
        for line in listing.split(b"\0"):
            status, name = line[:2], line[3:]
            if status == b"??":
                # The name of a repository in the tree ends with a slash; it is left out.
                others += [] if name.endswith(b"/") else [name]
            elif status[1:].strip():
                tracked.append(name)
        return tracked, others

    def _added(self, folder: Path, names: Sequence[bytes]) -> bool:
        """Put these files into the index, and return whether that was possible.

        It is not for many names, because git compares each file of the tree with each of them. It may not be
        if a process is running and removes one of the files.
        """
        if len(names) > _PATHS_AT_ONCE:
            return False
        try:
            self._add(folder, names, literal=True)
        except RequestError:
            return False
        return True

    def _add(self, folder: Path, paths: Sequence[bytes], *, literal: bool) -> None:
        with tempfile.NamedTemporaryFile(dir=self._folders.tmp) as file:
            file.write(b"\0".join(paths))
            file.flush()
            which = (f"--pathspec-from-file={file.name}", "--pathspec-file-nul")
            # An unreadable file (mode 000) stays as it was seeded; the other changes are kept.
            self._git(
                *("add", "--all", "--ignore-errors", *which),
                folder=folder,
                tolerate=(1,),
                env={"GIT_LITERAL_PATHSPECS": str(int(literal))},
            )

    def _patch_of_index(self, left_out: Mapping[bytes, int]) -> Patch:
        """Return the changes in the index, without files that are too large before or after their change."""
        changed = self._changed_in_index()
        if not changed:
            return Patch(b"", _with_sizes(left_out))
        index = self._git("write-tree").decode("ascii").strip()
        large, totals, seeded = dict(left_out), dict[str, int](), dict[str, _Blob]()
        for start in range(0, len(changed), _PATHS_AT_ONCE):
            some = changed[start : start + _PATHS_AT_ONCE]
            before, after = self._blobs(_SEED, some), self._blobs(index, some)
            seeded |= before
            for name in some:
                sizes = [found[name].size for found in (before, after) if name in found]
                if max(sizes, default=0) > MAX_FILE and (name in after or self._binary(name)):
                    large[os.fsencode(name)] = max(sizes)
                    self._restore([name], seeded)
                else:
                    totals[name] = sum(sizes)

        def leave_out(names: Sequence[str]) -> None:
            self._restore(names, seeded)
            large.update({os.fsencode(name): totals.pop(name) for name in names})

        if sum(totals.values()) > MAX_UNPACKED:
            binary = self._binary()
            held = {name: size for name, size in totals.items() if name in binary}
            leave_out(largest_beyond(held, MAX_UNPACKED))
        try:
            data = self._changes()
        except _TooMuchError:
            # In a patch, a binary file takes up to 5/4 of its size.
            leave_out(largest_beyond(totals, MAX_PATCH // 2))
            data = self._changes()
        return Patch(data, _with_sizes(large))

    def _changes(self) -> bytes:
        return self._git(
            *("diff", "--cached", "--binary", "--full-index", "--no-renames", "--no-color", "--no-ext-diff"),
            # All options are given, because the commands may have set others in the configuration.
            *("--no-textconv", "--src-prefix=a/", "--dst-prefix=b/", "--unified=3", _SEED, "--"),
            limit=MAX_PATCH,
            too_much=_TOO_MUCH,
        )

    def _blobs(self, tree: str, paths: Sequence[str]) -> dict[str, _Blob]:
        """Return those of these paths that are files in a tree, with their blobs."""
        listing = self._git("ls-tree", "-r", "-l", "-z", tree, "--", *paths)
        blobs = {}
        for line in listing.split(b"\0"):
            head, _, path = line.partition(b"\t")
            fields = head.decode("ascii", "replace").split()
            if len(fields) == 4 and fields[3].isdigit():
                blobs[os.fsdecode(path)] = _Blob(fields[0], fields[2], int(fields[3]))
        return blobs

    def _binary(self, *paths: str) -> set[str]:
        """Return the changed files (of `paths`, if given) whose patch contains all of their content."""
        arguments = ("diff", "--cached", "--numstat", "-z", "--no-renames", _SEED, "--", *paths)
        lines = self._git(*arguments, limit=MAX_PATCH).split(b"\0")
        return {os.fsdecode(line[4:]) for line in lines if line.startswith(b"-\t-\t")}

    def _restore(self, paths: Sequence[str], seeded: Mapping[str, _Blob]) -> None:
        """Undo changes in the index."""
        known = [(path, seeded[path]) for path in paths if path in seeded]
        entries = [part for path, one in known for part in ("--cacheinfo", f"{one.mode},{one.id},{path}")]
        self._update_index("--add", entries, separator="")
        self._update_index("--force-remove", [path for path in paths if path not in seeded])

    def _update_index(self, option: str, arguments: Sequence[str], *, separator: str = "--") -> None:
        for start in range(0, len(arguments), _PATHS_AT_ONCE):
            some = arguments[start : start + _PATHS_AT_ONCE]
            self._git("update-index", option, *filter(None, [separator]), *some)

    def _elsewhere(self) -> Patch | None:
        """Return the newest work that is not in the tree: in a worktree, on a branch or in a stash.

        If commands have damaged their repository, or set traps in it, nothing is found.
        """
        patches: list[tuple[float, Patch]] = []
        self._give_up = time.monotonic() + _ELSEWHERE_SECONDS
        try:
            self._look_elsewhere(patches)
        finally:
            self._give_up = math.inf
        return max(patches, key=lambda one: one[0])[1] if patches else None

    def _look_elsewhere(self, patches: list[tuple[float, Patch]]) -> None:
        """Add patches that are found to `patches`, with the times of their changes."""
        for folder in self._worktrees():
            with contextlib.suppress(RequestError, OSError):
                patch = self._patch_of_index(self._stage(folder))
                if patch.data:
                    patches.append(
                        (
                            self._newest(folder),
                            replace(patch, source=cut_end(f"the worktree {folder}", MAX_NAME)),
                        )
                    )
        for seconds, reference in self._references():
            with contextlib.suppress(RequestError, OSError):
                patch = self._patch_of_reference(reference)
                if patch.data:
                    source = "a stash" if reference == _STASH else f"the branch {reference[len(_HEADS) :]}"
                    patches.append((seconds, replace(patch, source=source)))
                    return

    def _worktrees(self) -> list[Path]:
        """Return the other worktrees of the commands' repository."""
        own = self._folders.tree / ".git" / "worktrees"
        worktrees = []
        with contextlib.suppress(OSError), os.scandir(own) as entries:
            for entry in itertools.islice(entries, _MOST_BRANCHES):
                with contextlib.suppress(OSError, ValueError, RequestError):
                    # Both must name each other (gitrepository-layout(5)), so that no other folder is read.
                    there = Path(_line_of(Path(entry.path) / "gitdir"))
                    back = _line_of(there).removeprefix("gitdir: ")
                    if os.path.realpath(back) == os.path.realpath(entry.path):
                        worktrees.append(there.parent)
        return worktrees

    def _newest(self, folder: Path) -> float:
        """Return when the newest of a folder's changed files was written."""
        names = self._git("diff", "--cached", "--name-only", "-z", "--no-renames", _SEED, limit=MAX_PATCH)
        times = [0.0]
        for name in names.split(b"\0"):
            with contextlib.suppress(OSError):
                times.append(os.lstat(os.path.join(os.fsencode(folder), name)).st_mtime)
        return max(times)

    def _references(self) -> list[tuple[float, str]]:
        """Return branches and stash of the commands' repository with commits of their own, newest first."""
        seed = self._git("rev-parse", _SEED).decode("ascii").strip()
        own = ("--git-dir", str(self._folders.tree / ".git"))
        wanted = ("--sort=-committerdate", f"--count={_MOST_BRANCHES}", f"--no-merged={seed}")
        shown = ("--format=%(committerdate:unix) %(refname)", _HEADS, _STASH)
        with contextlib.suppress(RequestError):
            listing = self._git(*own, "for-each-ref", *wanted, *shown, bare=False)
            lines = (os.fsdecode(line).partition(" ") for line in listing.splitlines())
            return [(float(seconds), name) for seconds, _, name in lines if seconds.isdigit()]
        return []

    def _patch_of_reference(self, reference: str) -> Patch:
        repository = str(self._folders.tree / ".git")
        self._git("fetch", "--quiet", "--no-tags", repository, f"+{reference}:{_FOUND}")
        untracked = (f"{_FOUND}^3",) if reference == _STASH and self._has(f"{_FOUND}^3") else ()
        self._git("read-tree", _FOUND, *untracked)
        return self._patch_of_index({})

    def _has(self, revision: str) -> bool:
        return bool(self._git("rev-parse", "--quiet", "--verify", revision, tolerate=(1,)).strip())

    def list_files(self, path: str, limit: int) -> str:
        """Return the files below a folder, one per line."""
        self._require_seed()
        relative = self._relative(path)
        files = ("ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", relative)
        found = self._git(*files, limit=MAX_PATCH, timeout=_SEARCH_TIMEOUT)
        names = sorted({name for name in found.decode("utf-8", "replace").split("\0") if name})
        tree = str(self._folders.tree)
        there = (name for name in names if os.path.lexists(os.path.join(tree, name)))
        names = list(itertools.islice(there, _MAX_FILES + 1))
        if not names:
            return "(no files)"
        return _bounded(names, _MAX_FILES, "files", limit)

    def search(self, pattern: str, path: str, limit: int) -> str:
        """Return matching lines of text files, as `path:line: text`."""
        self._require_seed()
        relative = self._relative(path)
        lines: list[str] = []
        rest = b""

        def take(data: bytes) -> bool:
            nonlocal rest
            *whole, rest = (rest + data).split(b"\n")
            rest = rest[:MAX_PATCH]
            lines.extend(_match_line(line) for line in whole)
            return len(lines) <= _MAX_MATCHES

        arguments = ("grep", "--untracked", "-I", "--line-number", "--no-color", "--null", "--full-name")
        for engine in ("--perl-regexp", "--extended-regexp"):
            try:
                grep = (*arguments, engine, "-e", pattern, "--", relative)
                self._run(grep, take, tolerate=(0, 1), timeout=_SEARCH_TIMEOUT)
            except RequestError as error:
                if engine == "--perl-regexp" and "compiled" in str(error):  # a git without PCRE
                    continue
                raise
            break
        return _bounded(lines, _MAX_MATCHES, "matches", limit) if lines else "(no match)"

    def _relative(self, path: str) -> str:
        real = resolve(self._folders.tree, path)
        if not real.exists():
            raise RequestError(f"There is no {cut_end(path, 200)}.")
        return os.path.relpath(real, os.path.realpath(self._folders.tree))

    def _require_seed(self) -> None:
        if not self._folders.git.exists():
            raise RequestError("The workspace holds no repository yet.")
        # Commands can change these files. They gain nothing by that, but their work could be lost.
        with deadline(FILE_SECONDS):
            for path in special_files(self._folders.git):
                os.unlink(path)
            replace_file(self._folders.git / "config", self._config)
            for name in ("attributes", "sparse-checkout"):
                (self._folders.git / "info" / name).unlink(missing_ok=True)
            _write_exclude(self._folders.git)

    def _changed_in_index(self) -> list[str]:
        """Return the paths that the index has changed.

        Drop repositories that were cloned into the tree, and keep submodules at their seeded commits.
        """
        options = ("--raw", "-z", "--no-renames", "--no-abbrev", "--ignore-submodules=none")
        fields = self._git("diff", "--cached", *options, _SEED, limit=MAX_PATCH).split(b"\0")
        changed = list[str]()
        for head, name in zip(fields[::2], fields[1::2], strict=False):
            before, after, commit = head.decode("ascii", "replace").lstrip(":").split(" ")[:3]
            path = os.fsdecode(name)
            if after == _GITLINK and before == _GITLINK:
                self._git("update-index", "--cacheinfo", f"{_GITLINK},{commit},{path}")
                continue
            if after == _GITLINK:
                self._git("update-index", "--force-remove", "--", path)
            if after != _GITLINK or before != _NOTHING:
                changed.append(path)
        return changed

    def _git(
        self,
        *arguments: str,
        bare: bool = True,
        folder: Path | None = None,
        tolerate: tuple[int, ...] = (),
        limit: int = _MAX_LISTING,
        too_much: str = "The output of git is too large.",
        timeout: float = _GIT_TIMEOUT,
        env: Mapping[str, str] | None = None,
    ) -> bytes:
        output = bytearray()

        def take(data: bytes) -> bool:
            output.extend(data)
            return len(output) <= limit

        self._run(
            arguments, take, bare=bare, folder=folder, tolerate=(0, *tolerate), timeout=timeout, env=env
        )
        if len(output) > limit:
            raise _TooMuchError(too_much)
        return bytes(output)

    def _run(
        self,
        arguments: tuple[str, ...],
        take: Callable[[bytes], bool],
        *,
        tolerate: tuple[int, ...],
        timeout: float,
        bare: bool = True,
        folder: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        folder = folder or self._folders.tree
        timeout = min(timeout, max(1.0, self._give_up - time.monotonic()))
        where = ("--git-dir", str(self._folders.git), "--work-tree", str(folder)) if bare else ()
        with tempfile.TemporaryFile(dir=self._folders.tmp) as errors:
            try:
                finished = self._commands.run(
                    [self._program, *_QUIET, *where, *arguments],
                    cwd=folder,
                    env={**self._env, **(env or {})},
                    timeout=timeout,
                    on_output=take,
                    stderr=errors.fileno(),
                )
            except OSError as error:
                raise RequestError(f"git cannot be started in the workspace: {error.strerror}.") from error
            errors.seek(0)
            said = errors.read(2000).decode("utf-8", "replace").strip()
        if finished.timed_out:
            raise RequestError(f"git took more than {timeout:.0f} s.")
        if finished.exit_code not in tolerate:
            raise RequestError(f"git: {said or f'exit status {finished.exit_code}'}")


def _bounded(lines: list[str], most: int, what: str, limit: int) -> str:
    shown: list[str] = []
    size = 0
    for line in lines[:most]:
        size += len(line) + 1
        if size > limit and shown:
            break
        shown.append(line)
    if len(shown) < len(lines):
        shown.append(f"[more {what} omitted; narrow the request]")
    return "\n".join(shown)


def _seeded_config(folders: WorkspaceFolders) -> bytes:
    """Return the seeded repository's configuration; empty if there is none. Remove a partial seed."""
    if folders.seeded.is_file():
        return folders.seeded.read_bytes()
    if folders.git.exists():
        for folder in (folders.git, folders.root / "copy", folders.tree):
            remove(folder)
        folders.make()
    return b""


def _large(folder: Path, names: Sequence[bytes]) -> dict[bytes, int]:
    """Return the sizes, by path, of files that are too large for a patch, without reading the files."""
    sizes: dict[bytes, int] = {}
    for name in names:
        with contextlib.suppress(OSError):  # removed, or in a folder that cannot be read
            sizes[name] = os.lstat(os.path.join(os.fsencode(folder), name)).st_size
    return {name: size for name, size in sorted(sizes.items()) if size > MAX_FILE}


def largest_beyond(sizes: Mapping[str, int], most: int) -> list[str]:
    """Return names to leave out, the largest first, so that the others have at most `most` bytes together."""
    left_out, total = [], sum(sizes.values())
    for name, size in sorted(sizes.items(), key=lambda one: (-one[1], one[0])):
        if total <= most:
            break
        left_out.append(name)
        total -= size
    return left_out


def _with_sizes(files: Mapping[bytes, int]) -> tuple[str, ...]:
    """Return the files' names for people, each with its size."""
    shown = [
        f"{cut_end(name.decode('utf-8', 'replace'), MAX_NAME - 20)} ({size / 2**20:.0f} MiB)"
        for name, size in sorted(files.items())
    ]
    more = [f"and {len(shown) - MAX_NAMES + 1} more"] if len(shown) > MAX_NAMES else []
    return (*shown[: MAX_NAMES - len(more)], *more)


def _line_of(file: Path) -> str:
    """Return the first line of one of git's own small files."""
    with open(file, "rb", opener=_without_waiting) as opened:
        return os.fsdecode(opened.read(4096).partition(b"\n")[0])


def _without_waiting(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NONBLOCK)  # a FIFO would wait for a writer


def _match_line(line: bytes) -> str:
    path, _, rest = line.decode("utf-8", "replace").partition("\0")
    number, _, text = rest.partition("\0")
    return f"{path}:{number}: {cut_end(text.rstrip(chr(13)), _MAX_LINE)}"


def _check_out_only(repository: Path, folders: Sequence[str]) -> None:
    """Make git check out only some folders, and the files in the folders above them (git-sparse-checkout(1)).

    The setting also makes git count a file that commands create outside of these folders as a change.
    """
    above = {
        "/".join(parts[:end])
        for parts in (folder.split("/") for folder in folders)
        for end in range(1, len(parts))
    }
    lines = ["/*", "!/*/"]
    for folder in sorted(above | set(folders)):
        escaped = re.sub(r"([*?\[\]\\])", r"\\\1", folder)
        lines.append(f"/{escaped}/")
        if folder not in folders:
            lines.append(f"!/{escaped}/*/")
    with (repository / "config").open("a", encoding="utf-8") as config:
        config.write("[core]\n\tsparseCheckout = true\n\tsparseCheckoutCone = true\n")
    (repository / "info").mkdir(exist_ok=True)
    (repository / "info" / "sparse-checkout").write_text("\n".join((*lines, "")), encoding="utf-8")


def _write_exclude(repository: Path) -> None:
    (repository / "info").mkdir(exist_ok=True)
    replace_file(repository / "info" / "exclude", b"\n".join((*map(str.encode, _GENERATED_FILES), b"")))
