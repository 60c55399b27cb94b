"""A generated bare repository with many files and commits, made once on a machine and kept in its cache."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from coding_agent_testbed.bench.errors import BenchError
from coding_agent_testbed.cluster import paths
from coding_agent_testbed.cluster.locks import locked
from coding_agent_testbed.forge import git

_VERSION = 1
"""Part of the cached folder's name: a change of what is generated needs another one."""
_SEED = 7
_AREAS, _PACKAGES = 25, 40
_CHANGED = 4
"""Files that each commit changes."""
_LINES = range(8, 40)
"""Lines of a file; with these, 100,000 files and 5,000 commits are packed in about 100 MB."""
_SECONDS = 1800.0
BRANCH = "main"


@dataclass(frozen=True)
class Size:
    """How large a repository is."""

    files: int
    commits: int


def area_of(number: int) -> str:
    """Return the top folder that a file is in."""
    return f"area{number % _AREAS:02}"


def path_of(number: int) -> str:
    """Return the path of a file: five levels, about ten files in a folder."""
    package, module = number // _AREAS % _PACKAGES, number // (_AREAS * _PACKAGES * 10)
    return f"{area_of(number)}/package{package:02}/module{module:02}/source/file{number}.py"


def generated(size: Size) -> Path:
    """Return the repository of this size; it is made if the cache does not have it.

    Raises:
        BenchError: git cannot make it.
    """
    root = paths.cache_root() / "repositories"
    repository = root / f"generated-{_VERSION}-{size.files}-{size.commits}.git"
    with locked(root / f"{repository.stem}.lock"):
        if not repository.is_dir():
            unfinished = repository.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            _generate(size, unfinished)
            unfinished.rename(repository)
    return repository


def _generate(size: Size, repository: Path) -> None:
    _git("init", "--quiet", "--bare", "--initial-branch", BRANCH, str(repository))
    where = ("--git-dir", str(repository))
    command = ["git", *where, "fast-import", "--quiet", "--depth=10"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=git.environment()) as importing:
        assert importing.stdin is not None
        _write(size, importing.stdin)
    if importing.returncode != 0:
        raise BenchError(f"git fast-import ended with exit code {importing.returncode}")
    # Forges keep bitmaps, so that a clone does not make them walk the whole history.
    _git(*where, "repack", "-a", "-d", "--quiet", "--write-bitmap-index")
    _git(*where, "pack-refs", "--all")


def _write(size: Size, stream: IO[bytes]) -> None:
    """Write the commits as fast-import reads them. The same size always gives the same commits."""
    chance = random.Random(_SEED)
    lines = [_line(chance) for _ in range(60_000)]

    def content() -> bytes:
        return ("\n".join(chance.choices(lines, k=chance.choice(_LINES))) + "\n").encode()

    for number in range(size.commits):
        first = number == 0
        message = f"Change {number}\n\n{chance.choice(lines)}\n".encode()
        when = 1_600_000_000 + 3600 * number
        stream.write(b"commit refs/heads/%s\n" % BRANCH.encode())
        stream.write(b"committer Sandbox <sandbox@localhost> %d +0000\n" % when)
        stream.write(b"data %d\n%s\n" % (len(message), message))
        for file in range(size.files) if first else _some(chance, size.files):
            data = content()
            stream.write(b"M 100644 inline %s\ndata %d\n%s\n" % (path_of(file).encode(), len(data), data))
    stream.write(b"done\n")


def _some(chance: random.Random, files: int) -> Iterator[int]:
    """Yield files of one area, as most changes are to one part of a repository."""
    area = chance.randrange(_AREAS)
    for _ in range(_CHANGED):
        yield min(chance.randrange(max(1, files // _AREAS)) * _AREAS + area, files - 1)


def _line(chance: random.Random) -> str:
    words = ("".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(3, 9))) for _ in range(8))
    return " ".join(words)


def _git(*arguments: str) -> None:
    try:
        subprocess.run(
            ["git", *arguments], env=git.environment(), check=True, capture_output=True, timeout=_SECONDS
        )
    except (subprocess.SubprocessError, OSError) as error:
        raise BenchError(f"the repository cannot be generated: {error}") from error
