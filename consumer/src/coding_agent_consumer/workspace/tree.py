"""The tree as git sees it: made from a bundle, compared with it, listed and searched.

Git here has no more rights than the commands themselves: whatever they plant in the tree gains them nothing.
A repository beside the tree remembers what was seeded; the tree's own `.git` is for the commands, which may
commit, reset or delete it without the work being lost.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from coding_agent_consumer.workspace.command import Commands
from coding_agent_consumer.workspace.files import resolve
from coding_agent_consumer.workspace.output import cut_end
from coding_agent_consumer.workspace.place import Place
from coding_agent_consumer.workspace.refusal import RefusedError
from coding_agent_consumer.workspace.wire import MAX_PATCH

_GIT_TIMEOUT = 300.0
_SEARCH_TIMEOUT = 30.0
_MAX_FILES = 2000
_MAX_MATCHES = 300
_MAX_LINE = 300
_MAX_LISTING = 8 * 1024 * 1024
_SEED = "refs/workspace/seed"
_GITLINK = "160000"
_LEFT_OVERS = (
    "__pycache__/",
    "*.py[co]",
    ".pytest_cache/",
    ".mypy_cache/",
    ".ruff_cache/",
    ".hypothesis/",
    ".tox/",
    ".nox/",
    ".venv/",
    "*.egg-info/",
    "node_modules/",
    ".gradle/",
    ".DS_Store",
)
"""What running tests leaves behind and nobody commits, for repositories that have no `.gitignore` for it.

Only new files are left out: one that the repository tracks counts whatever its name."""
_QUIET = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.quotePath=false")


class Tree:
    """Git over a workspace's tree."""

    def __init__(
        self, place: Place, commands: Commands, env: Mapping[str, str], program: str = "git"
    ) -> None:
        """Git over what is there: nothing yet, or what was seeded before our container was started again.

        Args:
            program: git's own.
        """
        self._place = place
        self._commands = commands
        self._program = program
        self._config = _seeded_config(place)
        self._env = {
            **env,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_ALLOW_PROTOCOL": "file",
            "GIT_LITERAL_PATHSPECS": "1",
            "LC_ALL": "C.UTF-8",
        }

    def seed(self, bundle: Path, branch: str) -> None:
        """Fetch a bundle's branch and check it out.

        Raises:
            RefusedError: the workspace was seeded already, or the bundle is none.
        """
        place = self._place
        if place.git.exists():
            raise RefusedError("The workspace has been seeded already.")
        try:
            self._git("init", "--quiet", "--bare", str(place.git), bare=False)
            reference = f"refs/heads/{branch}"
            self._git("fetch", "--quiet", "--no-tags", str(bundle), f"+{reference}:{reference}")
            self._config = (place.git / "config").read_bytes()
            self._git("update-ref", _SEED, reference)
            self._git("symbolic-ref", "HEAD", reference)
            self._git("reset", "--quiet", "--hard", _SEED)
            copy = place.root / "copy"
            # Its own repository for the commands; objects are shared by hard links.
            self._git(
                "clone", "--quiet", "--no-checkout", "--branch", branch, str(place.git), str(copy), bare=False
            )
            shutil.move(copy / ".git", place.tree / ".git")
            copy.rmdir()
            own = ("--git-dir", str(place.tree / ".git"), "--work-tree", str(place.tree))
            self._git(*own, "remote", "remove", "origin", bare=False)
            _write_exclude(place.tree / ".git")
            self._git(*own, "reset", "--quiet", bare=False)
            place.seeded.write_bytes(self._config)
        except RefusedError:
            shutil.rmtree(place.git, ignore_errors=True)
            raise

    def diff(self) -> bytes:
        """Everything changed since the seed, as a binary patch; repositories made inside are left out.

        Raises:
            RefusedError: not seeded, or too much changed.
        """
        self._require_seed()
        # A lock can only be that of a git that was killed: no other runs now.
        (self._place.git / "index.lock").unlink(missing_ok=True)
        # What cannot be read (mode 000) is left as it was seeded: better than losing the rest.
        self._git("add", "--all", "--ignore-errors", "--", ".", tolerate=(1,))
        self._drop_new_gitlinks()
        return self._git(
            "diff",
            "--cached",
            "--binary",
            "--full-index",
            "--no-renames",
            "--no-color",
            "--no-ext-diff",
            "--no-textconv",
            "--src-prefix=a/",
            "--dst-prefix=b/",
            "--unified=3",
            _SEED,
            "--",
            limit=MAX_PATCH,
            too_much=f"More than {MAX_PATCH // 2**20} MiB changed; remove what does not belong there.",
        )

    def list_files(self, path: str, limit: int) -> str:
        """Files below a folder, one a line."""
        self._require_seed()
        place = self._relative(path)
        found = self._git("ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", place)
        names = sorted({name for name in found.decode("utf-8", "replace").split("\0") if name})
        names = [name for name in names if os.path.lexists(self._place.tree / name)]
        if not names:
            return "(no files)"
        return _bounded(names, _MAX_FILES, "files", limit)

    def search(self, pattern: str, path: str, limit: int) -> str:
        """Matching lines of text files, as `path:line: text`."""
        self._require_seed()
        place = self._relative(path)
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
                self._run(
                    (*arguments, engine, "-e", pattern, "--", place),
                    take,
                    tolerate=(0, 1),
                    timeout=_SEARCH_TIMEOUT,
                )
            except RefusedError as error:
                if engine == "--perl-regexp" and "compiled" in str(error):  # a git without PCRE
                    continue
                raise
            break
        return _bounded(lines, _MAX_MATCHES, "matches", limit) if lines else "(no match)"

    def _relative(self, path: str) -> str:
        real = resolve(self._place.tree, path)
        if not real.exists():
            raise RefusedError(f"There is no {cut_end(path, 200)}.")
        return os.path.relpath(real, os.path.realpath(self._place.tree))

    def _require_seed(self) -> None:
        if not self._place.git.exists():
            raise RefusedError("The workspace holds no repository yet.")
        # Commands can write here too. It would gain them nothing, but their work could be lost by it.
        (self._place.git / "config").write_bytes(self._config)
        for name in ("attributes", "sparse-checkout"):
            (self._place.git / "info" / name).unlink(missing_ok=True)
        _write_exclude(self._place.git)

    def _drop_new_gitlinks(self) -> None:
        """A repository cloned into the tree is no content of ours; a submodule stays at its commit."""
        index = _gitlinks(self._git("ls-files", "--stage", "-z"), 1)
        seeded = _gitlinks(self._git("ls-tree", "-r", "-z", _SEED), 2)
        for path, commit in index.items():
            if path not in seeded:
                self._git("update-index", "--force-remove", "--", path)
            elif seeded[path] != commit:
                self._git("update-index", "--cacheinfo", f"{_GITLINK},{seeded[path]},{path}")

    def _git(
        self,
        *arguments: str,
        bare: bool = True,
        tolerate: tuple[int, ...] = (),
        limit: int = _MAX_LISTING,
        too_much: str = "The answer is too large.",
    ) -> bytes:
        output = bytearray()

        def take(data: bytes) -> bool:
            output.extend(data)
            return len(output) <= limit

        self._run(arguments, take, bare=bare, tolerate=(0, *tolerate), timeout=_GIT_TIMEOUT)
        if len(output) > limit:
            raise RefusedError(too_much)
        return bytes(output)

    def _run(
        self,
        arguments: tuple[str, ...],
        take: Callable[[bytes], bool],
        *,
        tolerate: tuple[int, ...],
        timeout: float,
        bare: bool = True,
    ) -> None:
        where = ("--git-dir", str(self._place.git), "--work-tree", str(self._place.tree)) if bare else ()
        with tempfile.TemporaryFile(dir=self._place.tmp) as errors:
            try:
                finished = self._commands.run(
                    [self._program, *_QUIET, *where, *arguments],
                    cwd=self._place.tree,
                    env=self._env,
                    timeout=timeout,
                    on_output=take,
                    stderr=errors.fileno(),
                )
            except OSError as error:
                raise RefusedError(f"git cannot be started in the workspace: {error.strerror}.") from error
            errors.seek(0)
            said = errors.read(2000).decode("utf-8", "replace").strip()
        if finished.timed_out:
            raise RefusedError(f"git needed more than {timeout:.0f} s.")
        if finished.exit_code not in tolerate:
            raise RefusedError(f"git: {said or f'exit status {finished.exit_code}'}")


def _bounded(lines: list[str], most: int, what: str, limit: int) -> str:
    shown: list[str] = []
    size = 0
    for line in lines[:most]:
        size += len(line) + 1
        if size > limit and shown:
            break
        shown.append(line)
    if len(shown) < len(lines):
        shown.append(f"[more {what} were left out; ask for less]")
    return "\n".join(shown)


def _seeded_config(place: Place) -> bytes:
    """The configuration of the repository that was seeded; what was seeded in part only is removed."""
    if place.seeded.is_file():
        return place.seeded.read_bytes()
    if place.git.exists():
        for folder in (place.git, place.root / "copy", place.tree):
            shutil.rmtree(folder, ignore_errors=True)
        place.make()
    return b""


def _gitlinks(listing: bytes, commit_field: int) -> dict[str, str]:
    """Path to commit of the gitlinks in `ls-files --stage -z` (field 1) or `ls-tree -z` (field 2)."""
    found = {}
    for entry in listing.split(b"\0"):
        head, _, path = entry.partition(b"\t")
        fields = head.decode("ascii", "replace").split()
        if fields and fields[0] == _GITLINK:
            found[os.fsdecode(path)] = fields[commit_field]
    return found


def _match_line(line: bytes) -> str:
    path, _, rest = line.decode("utf-8", "replace").partition("\0")
    number, _, text = rest.partition("\0")
    return f"{path}:{number}: {cut_end(text.rstrip(chr(13)), _MAX_LINE)}"


def _write_exclude(repository: Path) -> None:
    (repository / "info").mkdir(exist_ok=True)
    (repository / "info" / "exclude").write_text("\n".join(_LEFT_OVERS) + "\n", encoding="utf-8")
