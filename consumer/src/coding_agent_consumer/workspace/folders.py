"""The folders of a workspace, and the environment that its commands see."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

STANDARD_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


@dataclass(frozen=True)
class WorkspaceFolders:
    """The folders of a workspace, as the workspace program sees them.

    Attributes:
        root: contains the others.
        tmp: for temporary files.
    """

    root: Path
    tmp: Path

    @staticmethod
    def below(root: Path, *, private_tmp: bool = False) -> WorkspaceFolders:
        """With `private_tmp` the workspace has its own `/tmp`."""
        return WorkspaceFolders(root, Path("/tmp") if private_tmp else root / "tmp")  # noqa: S108 - a mount of our own

    @property
    def tree(self) -> Path:
        """The checkout in which commands run."""
        return self.root / "tree"

    @property
    def home(self) -> Path:
        """HOME of the commands; outside the tree, so that no patch contains what tools write there."""
        return self.root / "home"

    @property
    def git(self) -> Path:
        """The repository with the seeded commit; commands work with the tree's own `.git`."""
        return self.root / "git"

    @property
    def seeded(self) -> Path:
        """Exists once seeding is complete; a copy of the repository's configuration."""
        return self.root / "seeded"

    def make(self) -> None:
        """Create the folders with access for this user only."""
        for folder in (self.tree, self.home, self.tmp):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def command_environment(
    folders: WorkspaceFolders, search_path: str, inherited: Mapping[str, str], keep: tuple[str, ...] = ()
) -> dict[str, str]:
    """The environment of a command: fixed variables and those that the image's maker wants to keep.

    Args:
        folders: of the workspace.
        search_path: PATH.
        inherited: environment of the workspace program.
        keep: names to copy from it, e.g. `JAVA_HOME` in a toolchain image; `*`: all.
    """
    fixed = {
        "PATH": search_path,
        "HOME": str(folders.home),
        "TMPDIR": str(folders.tmp),
        "USER": "coding-agent",
        "LOGNAME": "coding-agent",
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "PAGER": "cat",
        "GIT_PAGER": "cat",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_AUTHOR_NAME": "coding agent",
        "GIT_AUTHOR_EMAIL": "coding-agent@localhost",
        "GIT_COMMITTER_NAME": "coding agent",
        "GIT_COMMITTER_EMAIL": "coding-agent@localhost",
    }
    names = inherited if "*" in keep else [name for name in keep if name in inherited]
    return {**{name: inherited[name] for name in names}, **fixed}


def usable_path(candidates: list[str]) -> str:
    """PATH from the folders that exist, without repetition, in their order."""
    seen: dict[str, None] = {}
    for folder in [*candidates, *STANDARD_PATH]:
        if folder.startswith("/") and os.access(folder, os.X_OK) and os.path.isdir(folder):
            seen.setdefault(folder)
    return ":".join(seen)


def remove(folder: Path) -> None:
    """Remove a folder with all that is in it; links are not followed, and what cannot be removed stays.

    `rm` because `shutil.rmtree` recurses: before Python 3.13 some 1,000 nested folders end it with a
    RecursionError.
    """
    _run("rm", "-rf", "--", str(folder))
    if folder.exists() and os.geteuid() != 0:
        # A command can create folders that even their owner cannot list.
        _run("chmod", "-R", "u+rwX", "--", str(folder))
        _run("rm", "-rf", "--", str(folder))


def _run(*command: str) -> None:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(command, check=False, capture_output=True, timeout=120)
