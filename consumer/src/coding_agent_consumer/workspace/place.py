"""The folders of a workspace, and the environment that its commands see."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

STANDARD_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


@dataclass(frozen=True)
class Place:
    """The folders below a workspace's root, as the serving program sees them.

    Attributes:
        root: holds them all.
        tmp: for temporary files.
    """

    root: Path
    tmp: Path

    @staticmethod
    def below(root: Path, *, private_tmp: bool = False) -> Place:
        """The folders below a root; with `private_tmp`, `/tmp` is the workspace's own."""
        return Place(root, Path("/tmp") if private_tmp else root / "tmp")  # noqa: S108 - a mount of our own

    @property
    def tree(self) -> Path:
        """The checkout in which commands run."""
        return self.root / "tree"

    @property
    def home(self) -> Path:
        """HOME of the commands; outside the tree, so that what tools leave there is in no patch."""
        return self.root / "home"

    @property
    def git(self) -> Path:
        """The repository that remembers what was seeded, whatever the commands do to the tree's `.git`."""
        return self.root / "git"

    @property
    def seeded(self) -> Path:
        """A file that is there once all was seeded: a copy of the repository's configuration."""
        return self.root / "seeded"

    def make(self) -> None:
        """Create the folders, for us alone."""
        for folder in (self.tree, self.home, self.tmp):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def command_environment(
    place: Place, search_path: str, inherited: Mapping[str, str], keep: tuple[str, ...] = ()
) -> dict[str, str]:
    """The whole environment of a command: a fixed list, and what the image's maker asked to keep.

    Args:
        place: where it runs.
        search_path: PATH.
        inherited: the serving program's own environment.
        keep: names that are taken over from it, e.g. `JAVA_HOME` in a toolchain image; `*`: all.
    """
    fixed = {
        "PATH": search_path,
        "HOME": str(place.home),
        "TMPDIR": str(place.tmp),
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
    """PATH out of those folders that exist here, each once, in their order."""
    seen: dict[str, None] = {}
    for folder in [*candidates, *STANDARD_PATH]:
        if folder.startswith("/") and os.access(folder, os.X_OK) and os.path.isdir(folder):
            seen.setdefault(folder)
    return ":".join(seen)


def remove(folder: Path) -> None:
    """Remove a folder of ours in which nothing runs any more; links in it are not followed."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists() and os.geteuid() != 0:
        # A command may have made folders that even their owner cannot list.
        subprocess.run(
            ["chmod", "-R", "u+rwX", "--", str(folder)], check=False, capture_output=True, timeout=60
        )
        shutil.rmtree(folder, ignore_errors=True)
